/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The benchmarks behind `flextoe bench NAME`: what one is, and the rows it reports. A benchmark runs on the
 * thread of the command that was started, alone, and may start processes of its own (bench/lab.h).
 *
 * A row is one measured figure. Its baseline is what it was measured against in the same run: kernel TCP,
 * unless the case says otherwise. BENCH_NONE stands for "there is nothing to compare with".
 */
#ifndef BENCH_BENCH_H
#define BENCH_BENCH_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>

#define BENCH_NONE NAN

struct bench_row {
	char case_name[40];
	char metric[24];
	char unit[24];
	double value;
	double baseline;
};

struct bench_run {
	/* what was asked for */
	double seconds;	      /* to measure in one repetition of one case; 0: the benchmark's default */
	unsigned repetitions; /* of each case and each side, of which the median counts; 0: the default */
	const char *only;     /* run this case alone; NULL: all */
	bool quiet;	      /* no progress on stderr */
	/* what came out */
	struct bench_row *rows;
	unsigned row_count, row_room;
	char note[1024]; /* a sentence or two for people under the table */
};

struct bench {
	const char *name;
	const char *summary;		   /* one line for `flextoe bench` without a name */
	int (*run)(struct bench_run *run); /* 0, or a negative errno value after saying why on stderr */
};

extern const struct bench *const bench_list[];
extern const unsigned bench_count;

/* `flextoe bench NAME [--json] …`: argv[0] is "bench". Returns the exit status. */
int bench_main(int argc, char **argv);

/* ---- for the benchmarks ---- */

void bench_add(struct bench_run *run, const char *case_name, const char *metric, const char *unit,
	double value, double baseline);
bool bench_wants(const struct bench_run *run, const char *case_name);
/* A line on stderr that says what is going on; silent before two seconds have passed, and when quiet. */
void bench_progress(const struct bench_run *run, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
double bench_median(double *values, unsigned n); /* sorts them */
/* Rate of cycles_now(), in Hz; measured once. */
double bench_tsc_hz(void);
/* A program of this build by its file name ("ft-load", "flextoed", …); false when it is not there. */
bool bench_program(const char *name, char *path, unsigned size);

#endif
