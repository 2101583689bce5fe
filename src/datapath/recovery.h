/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Loss recovery of connections that negotiated SACK, on the scoreboard. protocol.c calls it, from its long
 * ways alone, for a connection that has a board or may need one; without one (SACK not negotiated, pool
 * empty) protocol.c goes on as NewReno. Pure functions of (state, event, now), like all of the protocol
 * stage.
 *
 *   losses      RFC 8985 (RACK): lost is what something sent later has overtaken, a reordering window ago;
 *               the window is 0 while the path was never seen to reorder and three segments (RFC 6675 2)
 *               or a recovery say that this is loss
 *   sending     RFC 6675 (pipe, NextSeg 1 and 2), at the pace of RFC 6937 (PRR)
 *   tail        RFC 8985 7 (TLP), see protocol_deadline()
 *   timeouts    RFC 6298; everything not SACKed is lost; F-RTO (RFC 5682 3) finds those that were spurious
 *   undo        retransmissions that D-SACK (RFC 2883) shows to have been needless give the window back
 *
 * The timer: while the board waits for a reordering window to pass, rto_deadline_us is that moment
 * (BOARD_REORDER), and the retransmission timer starts again from there.
 */
#ifndef DATAPATH_RECOVERY_H
#define DATAPATH_RECOVERY_H

#include "core/seq.h"
#include "datapath/protocol.h"

/* What is to be grown by an ACK: bytes that arrived, and what was in the network before it. */
struct recovery_growth {
	uint32_t bytes;
	uint32_t flight;
};

/* True: the connection has a scoreboard. */
static inline bool recovery_has_board(const struct tcp_state *t)
{
	return t->dupacks == DUPACKS_BOARD;
}

/*
 * An acceptable ACK, whose snd_una is already in place (advanced: it has moved). Opens and closes the board.
 * False: the board has nothing to do with it, count duplicates.
 */
bool recovery_ack(struct tcp_state *t, struct ooo_pool *pool, const struct segment *s, bool advanced,
	uint32_t now_us, struct verdict *v, struct recovery_growth *growth);

enum recovery_next {
	RECOVERY_PLANNED, /* plan holds what is to be sent again (or the probe) */
	RECOVERY_WAITS,	  /* something is lost, but the windows hold it back: send nothing */
	RECOVERY_NEW,	  /* nothing to send again: new data is next */
};
/* With DUE_RETRANSMIT on a connection with a board. */
enum recovery_next recovery_next(
	struct tcp_state *t, struct ooo_pool *pool, uint32_t max_len, uint32_t now_us, struct tx_plan *plan);
/* Bytes of new data that the congestion window has room for. */
uint32_t recovery_room(const struct tcp_state *t, const struct ooo_pool *pool);
/* New data of len bytes is going out. */
void recovery_sent(struct tcp_state *t, struct ooo_pool *pool, uint32_t len);

/* protocol_deadline() has come. True: it was one of ours, and *arm says whether to arm the retransmission
   timer; *counter is what to count or COUNTERS. */
bool recovery_timeout(
	struct tcp_state *t, struct ooo_pool *pool, uint32_t now_us, enum counter *counter, bool *arm);
/* A retransmission timeout begins, with cwnd and ssthresh still as they were. False: no board can be had. */
bool recovery_rto(struct tcp_state *t, struct ooo_pool *pool);

/* Gives the board back, whatever it had to tell: all in flight will be sent again in order. */
void recovery_forget(struct tcp_state *t, struct ooo_pool *pool);

/* Half of what is in flight: what a loss leaves of the window (RFC 5681 (4)). */
static inline uint32_t flight_half(const struct tcp_state *t)
{
	return max_u32((t->snd_max - t->snd_una) / 2u, 2u * t->mss);
}

#endif
