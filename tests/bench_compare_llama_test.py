"""bench/compare_llama with programs in place of gladius and llama-bench that print what they are told."""
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

PROGRAM = pathlib.Path(__file__).parent.parent / "bench" / "compare_llama"

# Prints the next of its outputs at each call, and notes the arguments.
FAKE = """#!/bin/sh
here="{folder}"
echo "{name} $*" >> "$here/calls"
echo "loading [1 of 2]: a message" >&2
count=$(cat "$here/{name}.count" 2> /dev/null || echo 0)
echo $((count + 1)) > "$here/{name}.count"
cat "$here/{name}.$count"
exit {code}
"""


def result(speed, prompt=512, generated=0, threads=2):
    return {"n_prompt": prompt, "n_gen": generated, "n_depth": 0, "n_threads": threads, "avg_ts": speed}


class Comparison(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = pathlib.Path(temporary.name)
        (self.folder / "cli").mkdir()

    def program(self, path, name, outputs, code=0):
        for count, output in enumerate(outputs):
            (self.folder / f"{name}.{count}").write_text(output if isinstance(output, str) else json.dumps(output))
        path.write_text(FAKE.format(folder=self.folder, name=name, code=code))
        path.chmod(0o755)

    def compare(self, ours, theirs, *arguments, code=0):
        self.program(self.folder / "cli" / "gladius", "gladius", ours)
        self.program(self.folder / "llama-bench", "llama", theirs, code)
        return subprocess.run(
            [sys.executable, str(PROGRAM), "m.gguf", "--llama-bench", str(self.folder / "llama-bench"), "--build",
             str(self.folder), "--rounds", str(len(ours)), *arguments], capture_output=True, text=True)

    def test_medians_quartiles_and_ratio(self):
        ours = [[result(speed), result(10 * speed, 0, 128, 1)] for speed in (30, 10, 50, 20, 40)]
        theirs = [[result(2 * speed), result(5 * speed, 0, 128, 1)] for speed in (30, 10, 50, 20, 40)]
        done = self.compare(ours, theirs, "--threads", "1,2")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stdout.splitlines(), [
            "pp512 2 threads: gladius 30.0 (20.0-40.0), llama.cpp 60.0 (40.0-80.0), ratio 0.50x",
            "tg128 1 thread: gladius 300.0 (200.0-400.0), llama.cpp 150.0 (100.0-200.0), ratio 2.00x"])
        calls = (self.folder / "calls").read_text().splitlines()
        self.assertEqual([call.split()[0] for call in calls], ["gladius", "llama"] * 5)
        for call in calls:
            self.assertIn("-p 512 -n 128 -t 1,2 -r 1 -o json", call)

    def test_messages_around_the_results(self):
        noisy = "[warn] no GPU\n" + json.dumps([result(4.0)], indent=2) + "\ndone [ok]\n"
        done = self.compare([[result(2.0)]], [noisy])
        self.assertEqual(done.stdout, "pp512 2 threads: gladius 2.0, llama.cpp 4.0, ratio 0.50x\n", done.stderr)

    def test_what_only_one_measured_is_said(self):
        done = self.compare([[result(2.0), result(3.0, 64)]], [[result(4.0)]])
        self.assertEqual(done.returncode, 0)
        self.assertIn("pp64 2 threads", done.stderr)
        self.assertNotIn("pp64", done.stdout)

    def test_errors(self):
        for outputs, code, part in ((["nothing"], 0, "no results"), ([[]], 0, "no results"),
                                    ([[{"n_prompt": 1}]], 0, "n_threads"), ([[result(1.0)]], 3, "exit code 3"),
                                    ([[result(1.0, 64)]], 0, "no test in common")):
            done = self.compare([[result(1.0)]], outputs, code=code)
            self.assertEqual(done.returncode, 1)
            self.assertIn(part, done.stderr)
            self.assertNotIn("Traceback", done.stderr)
            for count in self.folder.glob("*.count"):
                count.unlink()
        (self.folder / "llama-bench").unlink()
        missing = subprocess.run([sys.executable, str(PROGRAM), "m.gguf", "--llama-bench", "missing", "--build",
                                  str(self.folder), "--rounds", "1"], capture_output=True, text=True)
        self.assertIn("cannot run llama.cpp", missing.stderr)


if __name__ == "__main__":
    unittest.main()
