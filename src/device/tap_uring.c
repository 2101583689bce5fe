/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The tap's frames through io_uring: many per system call, and none at all when there is nothing to do.
 * Called by tap.c on the thread that polls the device, which must stay the same (the ring belongs to it).
 *
 * Measured here against read() and writev(), cycles a frame: an idle poll 24 instead of 2,500, sending 2
 * frames together 2,200 instead of 3,300, 8 together 970, 32 together 650. A single frame costs 500 more, so
 * that one is written directly.
 *
 * Receiving is one multishot read (Linux 6.7) that takes buffers from a ring we keep supplied and posts a
 * completion per frame. Its work is done when we enter the kernel (DEFER_TASKRUN), and a flag in shared
 * memory tells when there is some. Until then frames stay in the tap's own queue and its file descriptor is
 * readable, so sleeping on that misses nothing. Writes are never waited for: RWF_NOWAIT makes them end before
 * the call returns.
 *
 * Where io_uring is missing, forbidden, or stops working, tap.c goes on without.
 */
#include "device/tap.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include <liburing.h>

#define OP_READ_MULTISHOT 49u /* Linux 6.7, newer than our liburing */
#define RX_RING		  64u
/* Buffers on offer. The kernel uses them in turn, and of 64 KiB super-frames few stay in the cache (32 made
   bulk receive an eighth dearer); small frames touch little of theirs, and there a burst that finds too few
   costs two more system calls (16 connections: a tenth of all cycles). */
#define RX_SUPPLY_LARGE 6u
#define RX_SUPPLY_SMALL 40u
#define SMALL_BYTES	2048u
#define TX_PENDING	64u
#define COOKIE_RX	UINT64_MAX
#define COOKIE_CANCEL	(UINT64_MAX - 1)
#define SUBMIT_TRIES	64u

struct pending {
	uint32_t buffer;
	unsigned pieces;
	uint32_t bytes;
	struct iovec iov[1 + FRAME_FRAGS];
};

struct tap_uring {
	struct io_uring ring;
	struct io_uring_buf_ring *supply;
	uint32_t supplied;   /* buffers on offer */
	uint32_t supply_max; /* at most so many: follows the size of the frames */
	bool armed;	     /* the multishot read is in the kernel */
	bool broken;	     /* to be given up */
	uint32_t ready_head; /* received and not handed out: */
	uint32_t ready_count;
	struct {
		uint32_t buffer, len;
	} ready[RX_RING];
	unsigned pending_count, unfinished;
	struct pending pending[TX_PENDING];
};

static void supply_fill(struct tap *tap, struct tap_uring *uring)
{
	unsigned added = 0;

	/* Never more than `ready` can hold, once they have come back. */
	while (uring->supplied + uring->ready_count < uring->supply_max && tap->rx.free_count) {
		uint32_t buffer = buffers_get(&tap->rx);

		io_uring_buf_ring_add(uring->supply,
			buffers_at(&tap->rx, buffer) + TAP_HEADROOM - TAP_HEADER_BYTES,
			TAP_HEADER_BYTES + TAP_FRAME_BYTES, (unsigned short)buffer,
			io_uring_buf_ring_mask(RX_RING), (int)added++);
		uring->supplied++;
	}
	if (added)
		io_uring_buf_ring_advance(uring->supply, (int)added);
}

static void rx_complete(struct tap *tap, struct tap_uring *uring, const struct io_uring_cqe *cqe)
{
	if (!(cqe->flags & IORING_CQE_F_MORE))
		uring->armed = false;
	if (cqe->flags & IORING_CQE_F_BUFFER) {
		uint32_t buffer = cqe->flags >> IORING_CQE_BUFFER_SHIFT;

		uring->supplied--;
		if (cqe->res <= 0) {
			buffers_put(&tap->rx, buffer);
		} else {
			uint32_t at = (uring->ready_head + uring->ready_count++) % RX_RING;

			uring->ready[at].buffer = buffer;
			uring->ready[at].len = (uint32_t)cqe->res;
			uring->supply_max = cqe->res > (int)SMALL_BYTES ? RX_SUPPLY_LARGE : RX_SUPPLY_SMALL;
		}
	}
	/* ENOBUFS: the supply ran out; the read starts again with the next. EAGAIN, EINTR: again as well. */
	if (cqe->res < 0 && cqe->res != -ENOBUFS && cqe->res != -EAGAIN && cqe->res != -EINTR &&
		cqe->res != -ECANCELED) {
		tap->stats.rx_errors++;
		uring->broken = true;
	}
}

static void tx_complete(struct tap *tap, struct tap_uring *uring, const struct io_uring_cqe *cqe)
{
	const struct pending *pending = &uring->pending[cqe->user_data];

	if (cqe->res == (int)pending->bytes) {
		tap->stats.tx_frames++;
		tap->stats.tx_bytes += pending->bytes - TAP_HEADER_BYTES;
	} else {
		tap->stats.tx_dropped++;
	}
	buffers_put(&tap->tx, pending->buffer);
	uring->unfinished--;
}

static void completions_take(struct tap *tap, struct tap_uring *uring)
{
	struct io_uring_cqe *cqe;
	unsigned head, count = 0;

	io_uring_for_each_cqe(&uring->ring, head, cqe)
	{
		count++;
		if (cqe->user_data == COOKIE_RX)
			rx_complete(tap, uring, cqe);
		else if (cqe->user_data < TX_PENDING)
			tx_complete(tap, uring, cqe);
	}
	if (count)
		io_uring_cq_advance(&uring->ring, count);
}

/* The kernel has work for us, or completions that did not fit. */
static bool kernel_has_work(const struct tap_uring *uring)
{
	return IO_URING_READ_ONCE(*uring->ring.sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW);
}

static void read_arm(struct tap_uring *uring)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&uring->ring);

	if (!sqe)
		return;
	io_uring_prep_rw(OP_READ_MULTISHOT, sqe, 0, NULL, 0, (uint64_t)-1);
	sqe->flags = IOSQE_BUFFER_SELECT | IOSQE_FIXED_FILE;
	sqe->buf_group = 0;
	sqe->user_data = COOKIE_RX;
	uring->armed = true;
}

static void enter(struct tap *tap, struct tap_uring *uring)
{
	int result = io_uring_submit_and_get_events(&uring->ring);

	if (result < 0 && result != -EINTR && result != -EAGAIN && result != -EBUSY)
		uring->broken = true;
	completions_take(tap, uring);
}

unsigned tap_uring_rx(struct tap *tap, uint32_t *buffers, uint32_t *lens, unsigned n)
{
	struct tap_uring *uring = tap->uring;
	unsigned got = 0;

	if (uring->ready_count < n) {
		supply_fill(tap, uring);
		if (!uring->armed && uring->supplied) {
			read_arm(uring);
			enter(tap, uring);
		} else if (kernel_has_work(uring)) {
			enter(tap, uring);
		} else {
			completions_take(tap, uring);
		}
	}
	while (got < n && uring->ready_count) {
		buffers[got] = uring->ready[uring->ready_head].buffer;
		lens[got++] = uring->ready[uring->ready_head].len;
		uring->ready_head = (uring->ready_head + 1) % RX_RING;
		uring->ready_count--;
	}
	return got;
}

bool tap_uring_rx_waiting(struct tap *tap)
{
	return tap->uring->ready_count || io_uring_cq_ready(&tap->uring->ring) || kernel_has_work(tap->uring);
}

/* A single frame, without the ring. Returns what writev() does. */
static ssize_t write_now(struct tap *tap, const struct pending *pending)
{
	return pwritev2(tap->fd, pending->iov, (int)pending->pieces, -1, RWF_NOWAIT);
}

void tap_uring_tx_flush(struct tap *tap)
{
	struct tap_uring *uring = tap->uring;

	if (!uring->pending_count)
		return;
	if (uring->pending_count == 1) {
		struct io_uring_cqe cqe = {.user_data = 0, .res = (int)write_now(tap, &uring->pending[0])};

		uring->unfinished = 1;
		tx_complete(tap, uring, &cqe);
		uring->pending_count = 0;
		return;
	}
	for (unsigned i = 0; i < uring->pending_count; i++) {
		struct io_uring_sqe *sqe =
			io_uring_get_sqe(&uring->ring); /* there are more than TX_PENDING */

		const struct pending *pending = &uring->pending[i];

		if (pending->pieces == 1) /* cheaper: the kernel has no vector to copy */
			io_uring_prep_write(sqe, 0, pending->iov[0].iov_base,
				(unsigned)pending->iov[0].iov_len, (uint64_t)-1);
		else
			io_uring_prep_writev(sqe, 0, pending->iov, pending->pieces, (uint64_t)-1);
		sqe->rw_flags = RWF_NOWAIT;
		sqe->flags = IOSQE_FIXED_FILE;
		sqe->user_data = i;
	}
	uring->unfinished = uring->pending_count;
	for (unsigned tries = 0; uring->unfinished && tries < SUBMIT_TRIES; tries++)
		enter(tap, uring);
	if (uring->unfinished) {
		/* The kernel does not take them. tap.c gives the ring up, and what was in it is lost. */
		tap->stats.tx_dropped += uring->unfinished;
		uring->broken = true;
	}
	uring->pending_count = 0;
}

void tap_uring_tx(struct tap *tap, uint32_t buffer, const struct iovec *iov, unsigned pieces, uint32_t bytes)
{
	struct tap_uring *uring = tap->uring;
	struct pending *pending;

	if (unlikely(uring->broken)) {
		buffers_put(&tap->tx, buffer);
		tap->stats.tx_dropped++;
		return;
	}
	pending = &uring->pending[uring->pending_count++];
	pending->buffer = buffer;
	pending->pieces = pieces;
	pending->bytes = bytes;
	memcpy(pending->iov, iov, pieces * sizeof(*iov));
	if (uring->pending_count == TX_PENDING)
		tap_uring_tx_flush(tap);
}

bool tap_uring_broken(const struct tap *tap)
{
	return tap->uring->broken;
}

static void nonblock_set(int fd, bool on)
{
	int flags = fcntl(fd, F_GETFL);

	fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK);
}

/*
 * Ends the multishot read, so that nothing holds on to the tap's file once it is closed: the interface is to
 * be gone then. Only the thread that polled can do that; when it has ended, the kernel does, a little later.
 */
static void read_cancel(struct tap *tap, struct tap_uring *uring)
{
	for (unsigned tries = 0; uring->armed && tries < SUBMIT_TRIES; tries++) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(&uring->ring);

		if (!sqe)
			return;
		io_uring_prep_cancel64(sqe, COOKIE_RX, 0);
		sqe->user_data = COOKIE_CANCEL;
		if (io_uring_submit_and_get_events(&uring->ring) < 0)
			return;
		completions_take(tap, uring);
	}
}

void tap_uring_stop(struct tap *tap)
{
	struct tap_uring *uring = tap->uring;

	if (!uring)
		return;
	/* Closing the ring ends the read; frames it took and nobody has seen are lost, like in a full queue.
	 */
	read_cancel(tap, uring);
	io_uring_unregister_files(&uring->ring);
	tap->stats.rx_dropped += uring->ready_count;
	io_uring_queue_exit(&uring->ring);
	free(uring->supply);
	free(uring);
	tap->uring = NULL;
	nonblock_set(tap->fd, true);
}

int tap_uring_start(struct tap *tap)
{
	struct io_uring_params params = {.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
						  IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_CQSIZE,
		.cq_entries = 4 * TX_PENDING};
	struct io_uring_buf_reg reg = {.ring_entries = RX_RING};
	struct tap_uring *uring = calloc(1, sizeof(*uring));
	int result;

	if (!uring)
		return -ENOMEM;
	uring->supply = aligned_alloc(4096, 4096);
	if (!uring->supply) {
		free(uring);
		return -ENOMEM;
	}
	memset(uring->supply, 0, 4096);
	result = io_uring_queue_init_params(2 * TX_PENDING, &uring->ring, &params);
	if (result) {
		free(uring->supply);
		free(uring);
		return result;
	}
	tap->uring = uring;
	uring->supply_max = RX_SUPPLY_SMALL;
	io_uring_buf_ring_init(uring->supply);
	reg.ring_addr = (uint64_t)(uintptr_t)uring->supply;
	/* A file that is set to O_NONBLOCK would end the read at the first "nothing there". */
	nonblock_set(tap->fd, false);
	result = io_uring_register_buf_ring(&uring->ring, &reg, 0);
	if (result)
		goto fail;
	/* Each operation, and each entry into the kernel, is spared a look-up. */
	result = io_uring_register_files(&uring->ring, &tap->fd, 1);
	if (result)
		goto fail;
	io_uring_register_ring_fd(&uring->ring);
	supply_fill(tap, uring);
	read_arm(uring);
	enter(tap, uring);
	/* A kernel without this operation says so at once. */
	if (!uring->armed || uring->broken) {
		result = -EOPNOTSUPP;
		goto fail;
	}
	return 0;
fail:
	tap->stats.rx_errors = 0;
	tap_uring_stop(tap);
	return result;
}
