"""bench/roofline: its statistics against values worked out by hand or by enumeration, its errors and exit codes."""
import importlib.machinery
import importlib.util
import itertools
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree

PROGRAM = pathlib.Path(__file__).parent.parent / "bench" / "roofline"
sys.dont_write_bytecode = True
loader = importlib.machinery.SourceFileLoader("roofline", str(PROGRAM))
roofline = importlib.util.module_from_spec(importlib.util.spec_from_loader("roofline", loader))
loader.exec_module(roofline)


def u_statistic(a, b):
    """The definition: pairs in which a is above b, ties count half."""
    return sum((x > y) + (x == y) / 2 for x in a for y in b)


def enumerated_p(a, b):
    """The share of all ways to call len(a) of the measurements a whose U is at least as far from its mean."""
    pooled, n, mean = a + b, len(a), len(a) * len(b) / 2
    far = count = 0
    for chosen in itertools.combinations(range(len(pooled)), n):
        first = [pooled[i] for i in chosen]
        second = [pooled[i] for i in range(len(pooled)) if i not in chosen]
        far += abs(u_statistic(first, second) - mean) >= abs(u_statistic(a, b) - mean) - 1e-9
        count += 1
    return far / count


def result(seconds, name="add/avx2/256x768/real_time", threads="2", **run):
    runs = [dict({"name": name, "run_name": name, "run_type": "iteration", "real_time": s * 1e6, "time_unit": "us",
                  "GFLOP/s": 1 / s, "flops": 1e9, "bytes": 12e9}, **run) for s in seconds]
    context = {"cpu": "a <CPU> & more", "threads": threads, "bandwidth_gbs": "10", "peak_gflops/avx2/fp32": "100"}
    return {"context": context, "benchmarks": runs}


class Statistics(unittest.TestCase):
    def test_by_hand(self):
        # 3 against 3, apart: 2 of the 20 ways. 5 against 5: 2 of 252. Overlapping by one: U = 1, 4 of 20.
        self.assertAlmostEqual(roofline.mann_whitney([1, 2, 3], [4, 5, 6]), 0.1)
        self.assertAlmostEqual(roofline.mann_whitney([1, 2, 3, 4, 5], [6, 7, 8, 9, 10]), 2 / 252)
        self.assertAlmostEqual(roofline.mann_whitney([1, 2, 4], [3, 5, 6]), 0.2)
        self.assertEqual(roofline.mann_whitney([1, 4], [2, 3]), 1.0)
        self.assertEqual(roofline.mann_whitney([7.0] * 5, [7.0] * 5), 1.0)

    def test_enumerated(self):
        for a, b in (([1, 5, 2, 9], [3, 4, 8, 7, 6]), ([1, 1, 2, 3], [2, 2, 4]), ([5, 5, 5], [5, 5, 6, 7, 7]),
                     ([0.5], [1, 2, 3, 4]), ([3, 1, 3, 1, 3], [2, 2, 1, 2, 2])):
            self.assertAlmostEqual(roofline.mann_whitney(a, b), enumerated_p(a, b))
            self.assertAlmostEqual(roofline.mann_whitney(b, a), enumerated_p(a, b))

    def test_normal_approximation_meets_the_exact_test(self):
        # Its largest error is the next term of the Edgeworth series, |k4| / 12 * max |z^3 - 3 z| phi(z), where
        # k4 = -6/5 (n^2 + m^2 + n m + n + m) / (n m (n + m + 1)): 0.0042 for 20 and 20. With ties U moves in halves, for
        # which the continuity correction is a quarter too large: 0.0054 more at a standard deviation of 37.
        limit = roofline.EXACT_UP_TO
        for shift in (2, 3, 4, 5):
            for first, second in (([i * 1.0 for i in range(20)], [i + shift + 0.5 for i in range(20)]),
                                  ([i // 3 for i in range(20)], [(i + shift) // 3 for i in range(20)])):
                exact = roofline.mann_whitney(first, second)
                roofline.EXACT_UP_TO = 0
                self.assertAlmostEqual(roofline.mann_whitney(first, second), exact, delta=0.0096)
                roofline.EXACT_UP_TO = limit

    def test_benjamini_hochberg(self):
        # By rank: 0.01 * 4/1, 0.02 * 4/2, 0.03 * 4/3, 0.5 * 4/4, then none above a later one.
        for got, expected in zip(roofline.benjamini_hochberg([0.5, 0.01, 0.03, 0.02]), [0.5, 0.04, 0.04, 0.04]):
            self.assertAlmostEqual(got, expected)
        self.assertEqual(roofline.benjamini_hochberg([]), [])


class Command(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def file(self, name, content):
        path = pathlib.Path(self.folder.name) / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    def run_program(self, *arguments):
        return subprocess.run([sys.executable, str(PROGRAM), *arguments], capture_output=True, text=True)

    def test_a_slowdown_fails_only_above_the_limit(self):
        old = self.file("old.json", result([1.00, 1.01, 1.02, 1.03, 1.04]))
        new = self.file("new.json", result([1.20, 1.21, 1.22, 1.23, 1.24]))
        noise = self.file("noise.json", result([1.00, 1.01, 1.02, 1.50, 1.60]))
        for files, limit, code in (((old, new), "10", 1), ((old, new), "30", 0), ((new, old), "10", 0),
                                   ((old, noise), "0", 0)):
            done = self.run_program("compare", *files, "--fail-if-slower", limit)
            self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        self.assertIn("1.196", self.run_program("compare", old, new).stdout)
        self.assertEqual(self.run_program("compare", old, new).returncode, 0)

    def test_other_threads_are_said(self):
        old, new = self.file("old.json", result([1, 2])), self.file("new.json", result([1, 2], threads="4"))
        self.assertIn("threads differs: 2, then 4", self.run_program("compare", old, new).stdout)

    def test_errors_name_the_file(self):
        good = self.file("good.json", result([1.0]))
        for bad in ("missing.json", self.file("text.json", "no JSON"), self.file("list.json", []),
                    self.file("empty.json", result([])), self.file("failed.json", result([1], error_occurred=True))):
            for arguments in (["compare", good, bad], ["compare", bad, good], ["plot", bad, "-o", "unwritten.svg"]):
                done = self.run_program(*arguments)
                self.assertEqual(done.returncode, 1)
                self.assertIn(bad, done.stderr)
                self.assertNotIn("Traceback", done.stderr)

    def test_plot_is_well_formed(self):
        svg = str(pathlib.Path(self.folder.name) / "roofline.svg")
        done = self.run_program("plot", self.file("good.json", result([1.0, 1.1])), "-o", svg)
        self.assertEqual(done.returncode, 0, done.stderr)
        words = [element.text for element in xml.etree.ElementTree.parse(svg).iter() if element.text]
        self.assertIn("a <CPU> & more, 2 threads", words)
        self.assertIn("avx2/fp32 100 GFLOP/s", words)


if __name__ == "__main__":
    unittest.main()
