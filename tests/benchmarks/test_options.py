"""The options of all benchmarks: wrong ones are named."""

import importlib

import pytest


@pytest.mark.parametrize(
    ("benchmark", "flags", "message"),
    [
        ("memory", ["--threads", "0"], "--threads must be at least 1, got 0"),
        ("memory", ["--steps", "2", "0"], "--steps must be at least 1, got 0"),
        ("memory", ["--figure", "absent/folder/file.png"], "its folder does not exist"),
        ("memory", ["--modes", "magic"], "invalid choice: 'magic'"),
        ("metrics", ["--threads", "0"], "--threads must be at least 1, got 0"),
        ("metrics", ["--sizes", "160x480"], "'160x480' is not WIDTHxHEIGHT with sides of at least 161"),
        ("metrics", ["--examples"], "--examples needs --data DIR"),
        ("metrics", ["--data", "pairs"], "--data is for --examples only"),
        ("metrics", ["--json", "absent/folder/file.json"], "its folder does not exist"),
        ("speed", ["--threads", "0"], "--threads must be at least 1, got 0"),
        ("speed", ["--json", "absent/folder/file.json"], "its folder does not exist"),
        ("speed", ["--dtypes", "fp8"], "invalid choice: 'fp8'"),
        ("metrics", ["--evaluator", "absent.py"], "is not a file: give utils/Evaluator.py"),
        ("speed", ["--peers", "GAN"], "invalid choice: 'GAN'"),
        ("speed", ["--peers", "all", "--memory-8k"], "not allowed with argument --peers"),
        ("space_load", ["--visitors", "0"], "--visitors must be at least 1, got 0"),
        ("space_load", ["--fusions", "5"], "one for each visitor, got 5"),
        ("space_load", ["--size", "8", "8"], "--size must be at least 32 32, got 8 8"),
        ("space_load", ["--json", "absent/folder/file.json"], "its folder does not exist"),
        ("space_speed", ["--fusions", "0"], "--fusions must be at least 1, got 0"),
    ],
)
def test_wrong_options_are_named(
    benchmark: str, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        importlib.import_module(benchmark).parse(flags)
    assert message in capsys.readouterr().err
