/* SPDX-License-Identifier: BSD-3-Clause */
/* Stands in for bench/ in a build without it. */
#include "bench/bench.h"
#include "cli/cli.h"

int bench_main(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	return cli_fail("this build has no benchmarks");
}
