/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The protocol stage: the only place where TCP state changes. Pure functions of (state, event, now): no I/O,
 * no clock, no globals. They answer with what the other stages are to do.
 *
 * Timers, all kept as deadlines in the state and watched by the control plane (TCPF_TIMER_ON):
 *   retransmission  armed while anything is in flight (RFC 6298), doubled with each timeout, given up after
 *                   PROTOCOL_RETRIES_MAX
 *   persist         armed while the peer's window keeps us from sending and nothing is in flight
 *                   (RFC 9293 3.8.6.1); shares the retransmission deadline, told apart by TCPF_PERSIST
 *   cork            armed while a segment is held back and nothing is in flight; shares the persist timer's
 *                   deadline and flag, told apart by TCPF_CORK and an open window
 *   loss probe      due before the retransmission, derived from its deadline (deadline.h; RFC 8985 7)
 *   reordering      a moment kept in the retransmission deadline by recovery.c (RFC 8985 6.2)
 *   delayed ACK     armed while an ACK is owed (RFC 9293 3.8.6.3)
 */
#ifndef DATAPATH_PROTOCOL_H
#define DATAPATH_PROTOCOL_H

#include "core/conn.h"
#include "core/counters.h"
#include "datapath/deadline.h"
#include "datapath/reassembly.h"

#define RTO_INITIAL_US 1000000u /* RFC 6298 2.1 */
#define RTO_MIN_US                                                                                           \
	200000u /* Not RFC 6298 2.4 (1 s): as Linux does, data-centre round trips are far below              \
		 */
#define RTO_MAX_US	     60000000u /* RFC 6298 2.5: at least 60 s */
#define ACK_DELAY_US	     40000u    /* RFC 9293 3.8.6.3: below 500 ms; as Linux's minimum */
#define PROTOCOL_RETRIES_MAX 15u     /* RFC 9293 3.8.3 R2: at least 100 s; with these RTOs over ten minutes */
#define QUICK_ACKS	     8u	     /* ACKs sent at once at the start of a connection and after loss */
#define QUICK_ACKS_ASKED     16u     /* and with TCP_QUICKACK, as Linux's bound */
#define CORK_MAX_US	     200000u /* as Linux: no longer is a segment held back */

/* SACK blocks as they came, [start, end) each; nothing about them has been checked. */
struct sack_list {
	uint32_t count;
	uint32_t block[SACK_BLOCKS][2];
};

/* What pre found in a TCP segment; host byte order. */
#define SEGMENT_TS   1u
#define SEGMENT_SACK 2u
struct segment {
	uint32_t seq;
	uint32_t ack;
	uint32_t len;	/* payload bytes */
	uint16_t wnd;	/* as in the header, not scaled */
	uint8_t flags;	/* control bits, TCP_*_ */
	uint8_t has_ts; /* SEGMENT_*: options that are there */
	uint32_t tsval;
	uint32_t tsecr;
	const struct sack_list *sack; /* with SEGMENT_SACK */
};

/* What protocol_rx() wants done with a segment. */
struct verdict {
	uint32_t place_len;  /* payload bytes to put into the receive buffer, 0 for none */
	uint32_t place_skip; /* where in the segment's payload they begin */
	uint32_t place_seq;  /* the sequence number of the first */
	uint32_t acked;	     /* bytes of ours newly acknowledged, FIN not counted */
	uint32_t delivered;  /* bytes by which the in-order stream grew */
	uint16_t counter;    /* what to count (a drop reason or another event), COUNTERS for nothing */
	uint16_t also;	     /* and more, a bit each from CNT_sack_refused on; 0 when counter is COUNTERS */
	bool send;	     /* there may be something to send now */
	bool notify;	     /* something the application should hear of, beside the positions */
};

/* Something to count beside whatever else happens to the segment. */
static inline void verdict_note(struct verdict *v, enum counter c)
{
	v->also |= (uint16_t)(1u << (c - CNT_sack_refused));
}

/* What protocol_tx() wants sent. */
struct tx_plan {
	uint32_t seq;
	uint32_t len;
	uint32_t ack;
	uint16_t wnd; /* scaled, as in the header */
	uint8_t flags;
	bool retransmission;
};

/* A segment has arrived. */
void protocol_rx(struct tcp_state *t, struct ooo_pool *pool, const struct segment *s, uint32_t now_us,
	struct verdict *v);

/*
 * The same for a segment that is as nearly all are (see protocol.c); false: it is not, and nothing was
 * changed.
 */
bool protocol_rx_usual(struct tcp_state *t, const struct segment *s, uint32_t now_us, struct verdict *v);

/*
 * Plans the next data segment of at most max_len payload bytes (a multiple of mss, or mss), takes it as sent,
 * and returns true; false when there is nothing to send now.
 */
bool protocol_tx(
	struct tcp_state *t, struct ooo_pool *pool, uint32_t max_len, uint32_t now_us, struct tx_plan *plan);
/* The same where all that is written leaves as one segment; false: it is not so, and nothing was changed. */
bool protocol_tx_usual(struct tcp_state *t, uint32_t max_len, uint32_t now_us, struct tx_plan *plan);
/* Plans the ACK of a connection at ease. */
void protocol_ack_usual(struct tcp_state *t, struct tx_plan *plan);
/* Plans a segment without payload: a pure ACK or, with DUE_RST, the RST. */
void protocol_ack(struct tcp_state *t, struct tx_plan *plan);

/* The application has moved its positions (sequence numbers here) or set FLEXTOE_HC_* flags. Returns 0, or
 * -EINVAL when they break the rules and nothing was changed. *send: there may be something to send. */
int protocol_host(struct tcp_state *t, uint32_t tx_end, uint32_t rx_tail, uint32_t flags, bool *send);

/* The same of a connection at ease and without flags; false: it is not so, and nothing was changed. */
bool protocol_host_usual(struct tcp_state *t, uint32_t tx_end, uint32_t rx_tail);

/* A deadline may have passed. Returns the counter of what happened, COUNTERS when nothing did. */
enum counter protocol_timeout(struct tcp_state *t, struct ooo_pool *pool, uint32_t now_us, bool *send);

/* Ends the connection with an errno value and, if reset, a RST to the peer. */
void protocol_abort(struct tcp_state *t, uint8_t error, bool reset);

/* States and debts in which nothing is "usual". */
#define UNUSUAL                                                                                              \
	(TCPF_RECOVERY | TCPF_RTO_RECOVERY | TCPF_FIN_QUEUED | TCPF_FIN_RCVD | TCPF_APP_CLOSED |             \
		TCPF_PERSIST | TCPF_CORK | TCPF_ECN)

/*
 * True: established, no duplicate ACKs, and of `flags` exactly `wanted` are set. One comparison, because what
 * it asks for lies in the eight bytes from mss on.
 */
static inline bool protocol_at_ease(const struct tcp_state *t, uint16_t flags, uint16_t wanted)
{
	uint64_t word;

	memcpy(&word, &t->mss, sizeof(word));
	return (word & ((uint64_t)flags << 16 | 0xffull << 32 | 0xffull << 56)) ==
	       ((uint64_t)wanted << 16 | (uint64_t)TCP_PHASE_ESTABLISHED << 32);
}
_Static_assert(offsetof(struct tcp_state, flags) == offsetof(struct tcp_state, mss) + 2 &&
		       offsetof(struct tcp_state, phase) == offsetof(struct tcp_state, mss) + 4 &&
		       offsetof(struct tcp_state, dupacks) == offsetof(struct tcp_state, mss) + 7,
	"protocol_at_ease() reads them as one word");

/* ---- protocol_control.c: for control work, and hints of applications ---- */

/* FLEXTOE_HC_MORE, _PUSH, _QUICKACK, _SLOWACK. *send as in protocol_host(). */
void protocol_hints(struct tcp_state *t, uint32_t flags, bool *send);

/* Congestion control has decided; 0: leave it. In recovery cwnd is left. */
void protocol_window(struct tcp_state *t, uint32_t cwnd, uint32_t ssthresh);
/* Segments are to have at most mss bytes from now on: what is in flight was too large and is sent again. */
void protocol_mss(struct tcp_state *t, struct ooo_pool *pool, uint32_t mss, bool *send);
/* Plans a keepalive probe; false: the connection is not idle. tcp_state.probes counts those without answer.
 */
bool protocol_keepalive(struct tcp_state *t, struct tx_plan *plan);

/* End of the in-order bytes in the receive buffer, without the peer's FIN. */
static inline uint32_t rx_data_end(const struct tcp_state *t)
{
	return t->rcv_nxt - ((t->flags & TCPF_FIN_RCVD) != 0);
}
/* Acknowledged bytes end here, without our FIN. */
static inline uint32_t tx_data_una(const struct tcp_state *t)
{
	return t->snd_una - (t->snd_una == t->tx_end + 1u && (t->flags & TCPF_FIN_SENT));
}
/* False: protocol_tx() would plan nothing. */
static inline bool protocol_tx_pending(const struct tcp_state *t)
{
	return (int32_t)(t->tx_end - t->snd_nxt) > 0 || (t->due & (DUE_RETRANSMIT | DUE_PROBE)) ||
	       ((t->flags & TCPF_FIN_QUEUED) && t->snd_nxt == t->tx_end);
}
static inline bool protocol_ended(const struct tcp_state *t)
{
	return t->phase == TCP_PHASE_CLOSED || t->phase == TCP_PHASE_TIME_WAIT;
}
static inline bool protocol_timer_wanted(const struct tcp_state *t)
{
	return (t->flags & (TCPF_RTO_ARMED | TCPF_ACK_DELAYED)) != 0 && !protocol_ended(t);
}

#endif
