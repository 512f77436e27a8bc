from pathlib import Path

from tests.samples.conftest import Start, lines_until


async def test_a_killed_process_goes_on_at_the_step_that_it_died_in(
    start: Start, tmp_path: Path
) -> None:
    program = f"import samples.crash_me as it; it.main({str(tmp_path / 'it.db')!r}, seconds=0.15)"
    async with start("-c", program) as first:
        before = await lines_until(first, "step  7")
        first.kill()
    async with start("-c", program) as second:
        after = await lines_until(second, "all 20 steps are done")

    numbers = [int(line.split()[1]) for line in [*before, *after] if line.startswith("  step")]
    last = numbers.index(7)
    assert numbers[: last + 1] == list(range(1, 8))
    # Between our reading and the kill it may have gone on; the step in its hands is done again.
    assert numbers[last + 1] in (7, 8, 9)
    assert numbers[last + 1 :] == list(range(numbers[last + 1], 21))


async def test_the_file_runs_as_a_script_too(start: Start, tmp_path: Path) -> None:
    async with start("samples/crash_me.py", str(tmp_path / "it.db")) as process:
        assert "step  1" in (await lines_until(process, "step  1"))[-1]
