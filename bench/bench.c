// SPDX-License-Identifier: BSD-3-Clause
/*
 * The front of the benchmarks: arguments, the list, rows, and how they are printed: a table for people or one
 * JSON object. Called by the command line tool, single-threaded. It measures nothing itself.
 */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/bench.h"
#include "core/platform.h"

static uint64_t bench_started_us;

void bench_add(struct bench_run *run, const char *case_name, const char *metric, const char *unit,
	double value, double baseline)
{
	struct bench_row *row;

	if (run->row_count == run->row_room) {
		unsigned room = run->row_room ? run->row_room * 2 : 64;
		struct bench_row *rows = realloc(run->rows, room * sizeof(*rows));
		if (!rows)
			abort();
		run->rows = rows;
		run->row_room = room;
	}
	row = &run->rows[run->row_count++];
	snprintf(row->case_name, sizeof(row->case_name), "%s", case_name);
	snprintf(row->metric, sizeof(row->metric), "%s", metric);
	snprintf(row->unit, sizeof(row->unit), "%s", unit);
	row->value = value;
	row->baseline = baseline;
}

bool bench_wants(const struct bench_run *run, const char *case_name)
{
	return !run->only || strcmp(run->only, case_name) == 0;
}

void bench_progress(const struct bench_run *run, const char *format, ...)
{
	va_list args;

	if (run->quiet || clock_us() - bench_started_us < 2000000)
		return;
	va_start(args, format);
	fprintf(stderr, "[%5.1f s] ", (double)(clock_us() - bench_started_us) / 1e6);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
}

static int compare_doubles(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

double bench_median(double *values, unsigned n)
{
	if (n == 0)
		return BENCH_NONE;
	qsort(values, n, sizeof(*values), compare_doubles);
	return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

double bench_tsc_hz(void)
{
	static double hz;

	if (hz == 0) {
		struct timespec t0, t1, pause = {.tv_nsec = 50 * 1000 * 1000};
		uint64_t c0, c1;

		clock_gettime(CLOCK_MONOTONIC, &t0);
		c0 = cycles_now();
		nanosleep(&pause, NULL);
		clock_gettime(CLOCK_MONOTONIC, &t1);
		c1 = cycles_now();
		hz = (double)(c1 - c0) /
		     ((double)(t1.tv_sec - t0.tv_sec) + (double)(t1.tv_nsec - t0.tv_nsec) / 1e9);
	}
	return hz;
}

bool bench_program(const char *name, char *path, unsigned size)
{
	/* from the command's own folder: build/, build/src/cli/, or an installation's bin/ */
	static const char *const below[] = {"%s/%s", "%s/bench/%s", "%s/../../bench/%s", "%s/../daemon/%s",
		"%s/src/daemon/%s", "%s/src/cli/%s", "%s/src/host/%s", "%s/../host/%s",
		"%s/../libexec/flextoe/%s"};
	char self[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *slash;
	unsigned i;

	if (n < 0)
		return false;
	self[n] = 0;
	slash = strrchr(self, '/');
	if (!slash)
		return false;
	*slash = 0;
	for (i = 0; i < ARRAY_SIZE(below); i++) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
		snprintf(path, size, below[i], self, name);
#pragma GCC diagnostic pop
		if (access(path, X_OK) == 0)
			return true;
	}
	return false;
}

static void print_number(char *out, size_t size, double v)
{
	double a = fabs(v);

	if (isnan(v))
		snprintf(out, size, "-");
	else if (a >= 1000)
		snprintf(out, size, "%.0f", v);
	else if (a >= 100)
		snprintf(out, size, "%.1f", v);
	else if (a >= 1)
		snprintf(out, size, "%.2f", v);
	else
		snprintf(out, size, "%.4f", v);
}

static void print_table(const struct bench_run *run)
{
	char value[32], baseline[32], ratio[32];
	unsigned i;

	printf("%-16s %-16s %14s %14s %8s  %s\n", "case", "metric", "value", "baseline", "ratio", "unit");
	for (i = 0; i < run->row_count; i++) {
		const struct bench_row *r = &run->rows[i];

		if (i > 0 && strcmp(r->case_name, r[-1].case_name) != 0)
			putchar('\n');
		print_number(value, sizeof(value), r->value);
		print_number(baseline, sizeof(baseline), r->baseline);
		print_number(ratio, sizeof(ratio), r->value / r->baseline);
		printf("%-16s %-16s %14s %14s %8s  %s\n", r->case_name, r->metric, value, baseline, ratio,
			r->unit);
	}
	if (run->note[0])
		printf("\n%s\n", run->note);
}

static void print_json_number(const char *key, double v)
{
	if (isfinite(v))
		printf(",\"%s\":%.9g", key, v);
	else
		printf(",\"%s\":null", key);
}

static void print_json(const struct bench_run *run)
{
	unsigned i;

	printf("{\"rows\":[");
	for (i = 0; i < run->row_count; i++) {
		const struct bench_row *r = &run->rows[i];

		printf("%s\n{\"case\":\"%s\",\"metric\":\"%s\",\"unit\":\"%s\"", i ? "," : "", r->case_name,
			r->metric, r->unit);
		print_json_number("value", r->value);
		print_json_number("baseline", r->baseline);
		print_json_number("ratio", r->value / r->baseline);
		putchar('}');
	}
	printf("\n]}\n");
}

static void usage(FILE *out)
{
	unsigned i;

	fprintf(out, "usage: flextoe bench NAME [--json] [--case CASE] [--seconds S] [--repetitions N] "
		     "[--quiet]\n\n"
		     "Measures FlexTOE against kernel TCP in the same run and prints a table.\n\n");
	for (i = 0; i < bench_count; i++)
		fprintf(out, "  %-10s  %s\n", bench_list[i]->name, bench_list[i]->summary);
	fprintf(out, "\n"
		     "  --json           one JSON object on standard output: {\"rows\":[...]}\n"
		     "  --case CASE      this case alone\n"
		     "  --seconds S      time to measure in one repetition of a case\n"
		     "  --repetitions N  repetitions of each case, of which the median is shown\n"
		     "  --quiet          no progress lines on standard error\n\n"
		     "Those with a kernel peer need root, and make network namespaces of their own.\n");
}

int bench_main(int argc, char **argv)
{
	static const struct option options[] = {{"json", no_argument, NULL, 'j'},
		{"case", required_argument, NULL, 'c'}, {"seconds", required_argument, NULL, 's'},
		{"repetitions", required_argument, NULL, 'r'}, {"quiet", no_argument, NULL, 'q'},
		{"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};
	struct bench_run run = {0};
	const struct bench *bench = NULL;
	bool json = false;
	unsigned i;
	int c, err;

	optind = 1;
	while ((c = getopt_long(argc, argv, "jc:s:r:qh", options, NULL)) != -1) {
		switch (c) {
		case 'j':
			json = true;
			break;
		case 'c':
			run.only = optarg;
			break;
		case 's':
			run.seconds = atof(optarg);
			break;
		case 'r':
			run.repetitions = (unsigned)atoi(optarg);
			break;
		case 'q':
			run.quiet = true;
			break;
		case 'h':
			usage(stdout);
			return 0;
		default:
			usage(stderr);
			return 2;
		}
	}
	if (optind + 1 != argc) {
		usage(optind == argc ? stdout : stderr);
		return optind == argc ? 0 : 2;
	}
	for (i = 0; i < bench_count; i++)
		if (strcmp(bench_list[i]->name, argv[optind]) == 0)
			bench = bench_list[i];
	if (!bench) {
		fprintf(stderr, "flextoe bench: there is no benchmark '%s'\n", argv[optind]);
		usage(stderr);
		return 2;
	}
	bench_started_us = clock_us();
	err = bench->run(&run);
	if (err == 0) {
		if (json)
			print_json(&run);
		else
			print_table(&run);
	}
	free(run.rows);
	return err == 0 ? 0 : 1;
}
