"""What fusion buys, as one table: rows by input, numbers with intervals, and no more said than the intervals allow.

    found = find_runs([Path("runs/segformer"), Path("runs/detector"), Path("runs/zero_shot")])
    results = assemble(found.runs, by_day_and_night=True, published=read_published())
    write(results, Path("results"))

`runs` reads, `alike` refuses what cannot be compared, `measures` knows the numbers, `table` puts them together;
`report` and `figure` show them. `fusion-hub downstream` is all of it.
"""

from fusion_hub.evaluation.downstream_results.alike import check_alike
from fusion_hub.evaluation.downstream_results.published import Published, read_published
from fusion_hub.evaluation.downstream_results.runs import Cost, Found, Run, find_runs
from fusion_hub.evaluation.downstream_results.table import Difference, Number, Part, Results, Row, assemble
from fusion_hub.evaluation.downstream_results.writing import write

__all__ = [
    "Cost",
    "Difference",
    "Found",
    "Number",
    "Part",
    "Published",
    "Results",
    "Row",
    "Run",
    "assemble",
    "check_alike",
    "find_runs",
    "read_published",
    "write",
]
