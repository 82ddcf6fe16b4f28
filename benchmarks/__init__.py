"""Speed and exactness on machines that tests can't count on; results go to ``reports/benchmarks``."""
