// Sort a table by the column whose heading was pressed; cells without a value stay last.
for (const button of document.querySelectorAll("th > button")) {
  button.addEventListener("click", () => {
    const heading = button.parentElement;
    const body = heading.closest("table").tBodies[0];
    const first = heading.dataset.first; // direction in which the best comes first
    const current = heading.getAttribute("aria-sort");
    const next = current === first ? (first === "ascending" ? "descending" : "ascending") : first;
    const sign = next === "ascending" ? 1 : -1;
    const key = (row) => row.cells[heading.cellIndex].dataset.value ?? "";
    const compare = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const numbers = !(Number.isNaN(Number(x)) || Number.isNaN(Number(y)));
      return sign * (numbers ? x - y : x.localeCompare(y));
    };
    body.append(...[...body.rows].sort(compare));
    for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", next);
  });
}
