/* SPDX-License-Identifier: BSD-3-Clause */
/* Stands in for tap_uring.c in a build without liburing: it never starts, so the rest is never called. */
#include "device/tap.h"

#include <errno.h>

int tap_uring_start(struct tap *tap)
{
	(void)tap;
	return -ENOTSUP;
}

void tap_uring_stop(struct tap *tap)
{
	(void)tap;
}

bool tap_uring_broken(const struct tap *tap)
{
	(void)tap;
	return false;
}

unsigned tap_uring_rx(struct tap *tap, uint32_t *buffers, uint32_t *lens, unsigned n)
{
	(void)tap;
	(void)buffers;
	(void)lens;
	(void)n;
	return 0;
}

bool tap_uring_rx_waiting(struct tap *tap)
{
	(void)tap;
	return false;
}

void tap_uring_tx(struct tap *tap, uint32_t buffer, const struct iovec *iov, unsigned pieces, uint32_t bytes)
{
	(void)tap;
	(void)buffer;
	(void)iov;
	(void)pieces;
	(void)bytes;
}

void tap_uring_tx_flush(struct tap *tap)
{
	(void)tap;
}
