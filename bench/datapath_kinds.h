/* SPDX-License-Identifier: BSD-3-Clause */
/* The cases of `flextoe bench datapath`, for the benchmark and the program it runs under callgrind. */
#ifndef BENCH_DATAPATH_KINDS_H
#define BENCH_DATAPATH_KINDS_H

#include <stdbool.h>
#include <stdint.h>

struct kind {
	const char *name;
	uint32_t rx_len; /* payload of a segment in; 0: none comes */
	uint32_t tx_len; /* payload of a segment out; 0: none goes */
	bool ack_only;	 /* the segment in is a pure ACK */
	double bar;	 /* instructions */
};

static const struct kind kinds[] = {
	{"rx-64-ack", 64, 0, false, 300},
	{"rx-1448-ack", 1448, 0, false, 350},
	{"pure-ack", 0, 64, true, 200},
	{"tx-64", 0, 64, false, 250},
	{"tx-1448", 0, 1448, false, 300},
	{"rpc-64", 64, 64, false, 700},
};

#endif
