from pathlib import Path

from tests.samples.conftest import Start, lines_until


async def test_a_model_is_not_asked_again_for_what_it_said_before_the_crash(
    start: Start, tmp_path: Path
) -> None:
    program = f"import samples.agent as it; it.main({str(tmp_path / 'it.db')!r})"
    async with start("-c", program, "--crash") as first:
        before = await lines_until(first, "the process dies")
        assert await first.wait() == 1
    async with start("-c", program) as second:
        after = await lines_until(second, "Take a coat")
    assert before.count("the model is asked") == after.count("the model is asked") == 1
    assert after[-1] == "Take a coat: 3 degrees in Oslo tomorrow. (2 requests)"
