/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Congestion control: what an algorithm gets to see of a connection, and what it answers. The data path does
 * what every acknowledgement needs by itself: slow start below ssthresh, one segment a window of bytes above
 * it, half the flight on a loss. It tells of each such window and each loss, and the algorithm corrects
 * windows in answer. So one call serves a round trip, and a connection that is idle, or does not use its
 * window, costs nothing.
 *
 * An algorithm is a struct flextoe_cc of pure functions on FLEXTOE_CC_STATE bytes of its own, which are 0
 * before begin(). A loss that turns out to have been none is undone by putting these bytes back as they were
 * before loss(). All windows are in bytes.
 */
#ifndef FLEXTOE_CC_H
#define FLEXTOE_CC_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FLEXTOE_CC_STATE 64u

struct flextoe_cc_sample {
	uint64_t now_us;
	uint32_t mss;
	uint32_t cwnd;	   /* as it is now */
	uint32_t ssthresh; /* as it is now */
	uint32_t flight;  /* loss(): what was in flight when it was found; 0: it was answered already, and its
			     repair has timed out */
	uint32_t srtt_us; /* smoothed round trip; 0: not known */
	uint32_t acked;	  /* newly acknowledged since the last sample */
	uint32_t marked;  /* of them, acknowledged with an echo of a congestion mark (ECN) */
};

/* 0: leave it as it is. */
struct flextoe_cc_window {
	uint32_t cwnd;
	uint32_t ssthresh;
};

struct flextoe_cc {
	const char *name;  /* for TCP_CONGESTION: at most 15 characters */
	bool accurate_ecn; /* marks are to be echoed segment by segment (RFC 8257 3.2), not until CWR */
	void (*begin)(void *state, const struct flextoe_cc_sample *s); /* before the first of the others */
	/* A window of bytes was acknowledged above ssthresh while the window was what limited the sender;
	   cwnd has grown by one segment for it. */
	void (*round)(void *state, const struct flextoe_cc_sample *s, struct flextoe_cc_window *out);
	/* A loss; in recovery ssthresh alone counts. timeout: of the retransmission timer; then cwnd is one
	   segment and slow start begins. */
	void (*loss)(
		void *state, const struct flextoe_cc_sample *s, bool timeout, struct flextoe_cc_window *out);
	/* The peer has echoed marks: at most once a window of bytes. */
	void (*mark)(void *state, const struct flextoe_cc_sample *s, struct flextoe_cc_window *out);
	/* All bytes that were in flight a while ago are acknowledged: an observation window has ended. NULL:
	   not wanted. */
	void (*observe)(void *state, const struct flextoe_cc_sample *s);
};

#ifdef __cplusplus
}
#endif
#endif
