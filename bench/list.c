// SPDX-License-Identifier: BSD-3-Clause
/* The list of benchmarks, in the order `flextoe bench` shows them. A new one takes a line in each half. */
#include "bench/bench.h"
#include "core/platform.h"

extern const struct bench bench_datapath, bench_engine, bench_rpc, bench_memcached, bench_bulk,
	bench_connrate, bench_loss, bench_footprint, bench_device;

const struct bench *const bench_list[] = {
	&bench_datapath,
	&bench_rpc,
	&bench_memcached,
	&bench_engine,
	&bench_bulk,
	&bench_connrate,
	&bench_loss,
	&bench_footprint,
	&bench_device,
};
const unsigned bench_count = ARRAY_SIZE(bench_list);
