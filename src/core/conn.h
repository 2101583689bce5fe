/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * State of an established connection, 256 bytes in all, grouped by who writes it so that no two writers share
 * a cache line. The control plane fills everything in before it installs a connection; from then on each
 * struct below belongs to the stage named at its head, until the data path reports the connection removed.
 */
#ifndef CORE_CONN_H
#define CORE_CONN_H

#include "core/platform.h"
#include "core/wire.h"

#define CONN_NONE 0xffffffffu
#define CONN_TTL  64u /* RFC 9293 3.9.2 and IANA's default */

/*
 * Written by the control plane only (later by CTL_NEIGHBOUR and CTL_OPTIONS); one cache line.
 * IPv4 addresses are kept IPv4-mapped: in word 3, with word 2 0x0000ffff in wire order.
 */
struct conn_identity {
	be32 local_addr[4];
	be32 remote_addr[4];
	be16 remote_port; /* the two ports as they lie in a segment that comes in */
	be16 local_port;
	uint8_t remote_mac[6]; /* of the next hop */
	uint8_t version_ihl;   /* with tos the first two bytes of the IPv4 header of what we send */
	uint8_t tos;	       /* DSCP; the ECN bits are 0 (ecn.c sets them) */
	uint8_t ttl;	       /* with protocol two more */
	uint8_t protocol;
	uint16_t pseudo_sum; /* folded sum of the addresses and the protocol, for checksums */
	uint32_t hash;	     /* flow_hash() of the addresses and ports above */
	uint32_t handle;     /* its name at the boundary: index | generation << FLEXTOE_CONN_INDEX_BITS */
	uint16_t app;	     /* application (= region) it belongs to */
	uint8_t port;	     /* index of the data path's port (device) */
	uint8_t flags;	     /* reserved */
	uint32_t reserved;
};

enum tcp_phase { /* RFC 9293 3.3.2; LISTEN, SYN-SENT, SYN-RECEIVED and the wait of TIME-WAIT are control's */
	TCP_PHASE_CLOSED = 0,
	TCP_PHASE_ESTABLISHED,
	TCP_PHASE_FIN_WAIT_1,
	TCP_PHASE_FIN_WAIT_2,
	TCP_PHASE_CLOSE_WAIT,
	TCP_PHASE_CLOSING,
	TCP_PHASE_LAST_ACK,
	TCP_PHASE_TIME_WAIT,
};

/* Flags of tcp_state. */
#define TCPF_TIMESTAMPS	  0x0001u /* negotiated (RFC 7323) */
#define TCPF_SACK	  0x0002u /* negotiated (RFC 2018) */
#define TCPF_TIMER_ON	  0x0004u /* the control plane watches this connection's deadlines */
#define TCPF_RTT_TIMING	  0x0008u /* rtt_seq is being timed (Karn: cleared by a retransmission) */
#define TCPF_RECOVERY	  0x0010u /* fast recovery until snd_una passes recover (RFC 6582) */
#define TCPF_FIN_QUEUED	  0x0020u /* FIN follows the byte before tx_end */
#define TCPF_FIN_SENT	  0x0040u /* snd_max covers the FIN */
#define TCPF_FIN_RCVD	  0x0080u /* rcv_nxt covers the peer's FIN */
#define TCPF_ACK_DELAYED  0x0100u /* an ACK is owed by ack_deadline_us */
#define TCPF_RTO_ARMED	  0x0200u /* rto_deadline_us counts: retransmission, or persist with TCPF_PERSIST */
#define TCPF_PERSIST	  0x0400u /* the window is closed and nothing is in flight: probing */
#define TCPF_APP_CLOSED	  0x0800u /* the application has given the connection up: data that comes is RST */
#define TCPF_NAGLE	  0x1000u
#define TCPF_RTO_RECOVERY 0x2000u /* resending after a timeout until snd_una passes recover */
#define TCPF_CORK	  0x4000u /* a last segment that is not full is held back (FLEXTOE_HC_MORE) */
#define TCPF_ECN	  0x8000u /* negotiated (RFC 3168): nothing goes the short ways, which know no marks */

/* In tcp_state.dupacks: the connection has a scoreboard, which counts for itself (recovery.h). */
#define DUPACKS_BOARD 255u

/* What tcp_state.due asks the transmit side to do before new data. */
#define DUE_ACK	       0x01u /* an ACK is to leave with this batch */
#define DUE_RETRANSMIT 0x02u /* one segment from snd_una is to be sent again */
#define DUE_PROBE      0x04u /* a zero-window probe is to be sent */
#define DUE_RST	       0x08u /* a RST ends the connection */
#define DUE_SACK       0x10u /* an ACK with SACK blocks is to leave: a data segment cannot carry them */
/* And what the control plane is to hear of congestion: as CONN_EVENT_UNDO, _ROUND and _LOSS. */
#define DUE_UNDO       0x20u
#define DUE_ROUND      0x40u
#define DUE_LOSS       0x80u
#define DUE_CONGESTION (DUE_UNDO | DUE_ROUND | DUE_LOSS)

/*
 * Written by the protocol stage only; two cache lines: the first is what an in-order segment needs.
 * Names as in RFC 9293 3.3.1. Stream positions at the boundary are seq - rx_base and seq - tx_base.
 */
struct tcp_state {
	/* receive */
	uint32_t rcv_nxt;   /* next byte expected; everything before it is in the application's buffer */
	uint32_t rcv_adv;   /* right edge of the window we told the peer; never moves left */
	uint32_t rx_base;   /* IRS + 1 */
	uint32_t rx_tail;   /* seq: the application has consumed everything before it */
	uint32_t rcv_acked; /* last ACK number sent */
	uint32_t ts_recent; /* TS.Recent (RFC 7323 4.3) */
	/* send */
	uint32_t snd_una;   /* oldest byte not acknowledged */
	uint32_t snd_nxt;   /* next byte to send; snd_una <= snd_nxt <= snd_max */
	uint32_t snd_max;   /* everything before it was sent at least once */
	uint32_t tx_end;    /* seq: end of what the application has written */
	uint32_t snd_wnd;   /* the peer's window in bytes, from snd_una */
	uint32_t snd_wl1;   /* seq of the segment of the last window update */
	uint32_t snd_wl2;   /* ack of the segment of the last window update */
	uint32_t cwnd;	    /* bytes */
	uint16_t mss;	    /* payload bytes of a segment we send, options deducted */
	uint16_t flags;	    /* TCPF_* */
	uint8_t phase;	    /* enum tcp_phase */
	uint8_t snd_wscale; /* shift of windows the peer sends */
	uint8_t rcv_wscale; /* shift of windows we send */
	uint8_t dupacks;    /* duplicate ACKs in a row, or DUPACKS_BOARD */

	/* second line: loss, timers, and what changes rarely */
	uint32_t tx_base; /* ISS + 1 */
	uint32_t ssthresh;
	uint32_t recover;     /* RFC 6582: snd_max when recovery began */
	uint32_t cwnd_acked;  /* bytes acknowledged towards the next increase of cwnd */
	uint32_t max_snd_wnd; /* largest window the peer ever offered (RFC 9293 3.8.6.2.1) */
	uint32_t srtt_us;     /* smoothed, times 8; 0: no sample yet */
	uint32_t rttvar_us;   /* times 4 */
	uint32_t rto_us;
	uint32_t rtt_seq; /* the ACK of this byte ends the measurement begun at rtt_start_us */
	uint32_t rtt_start_us;
	uint32_t rto_deadline_us;
	uint32_t ack_deadline_us;
	uint32_t ooo;	       /* entry of the out-of-order pool: intervals, scoreboard; or CONN_NONE */
	uint32_t ts_recent_us; /* when TS.Recent was taken */
	union {
		uint8_t error;	 /* when it has ended: the errno value it ended with */
		uint8_t reorder; /* until then: what was seen of reordering (recovery.c) */
	};
	uint8_t probes;	    /* zero-window probes since the last ACK */
	uint8_t backoff;    /* timeouts in a row */
	uint8_t quick_acks; /* ACKs still to be sent at once */
	uint8_t rx_shift;   /* log2 of the receive buffer */
	uint8_t tx_shift;
	uint8_t due;		 /* DUE_* */
	uint8_t challenge_stamp; /* now_us >> 16 of the last ACK to a senseless segment (RFC 5961 7) */
};

/* Flags of host_state. */
#define HOST_SCHEDULED	  0x0001u /* in the scheduler */
#define HOST_NTF_QUEUED	  0x0002u /* in its context's list of notifications owed */
#define HOST_MUTED	  0x0004u /* the application gave the connection up: no notifications */
#define HOST_TOUCHED	  0x0008u /* in the batch's list of connections to finish */
#define HOST_EVENT_QUEUED 0x0010u /* in the list of events for the control plane */
#define HOST_HASHED	  0x0020u /* in the flow table */
#define HOST_NTF_FORCE	  0x0040u /* notify even if nothing moved */
#define HOST_LIVE	  0x0080u /* installed, not yet removed */
/* 0x0100: HOST_REMOVING of the data path */
/* With TCPF_ECN: */
#define HOST_ECE   0x0400u /* what we send says that a congestion mark came */
#define HOST_CWR   0x0800u /* the next new data says that the window was reduced */
#define HOST_DCTCP 0x1000u /* marks are echoed segment by segment (RFC 8257 3.2) */

/* Events a connection has for the control plane (bits of host_state.events). */
#define CONN_EVENT_TIMER       0x01u /* deadlines are set: watch them until CTL_TIMERS_OFF succeeds */
#define CONN_EVENT_DEAD	       0x02u /* TCP has ended: phase is CLOSED or TIME_WAIT, the flow table forgot it */
#define CONN_EVENT_RELEASED    0x04u  /* the application has given it up (CLOSE or ABORT) */
#define CONN_EVENT_ACCEPTED    0x08u  /* accept() returned it */
#define CONN_EVENT_REMOVED     0x10u  /* answer to CTL_REMOVE: the data path knows it no more */
#define CONN_EVENT_TIMERS_IDLE 0x20u  /* answer to CTL_TIMERS_OFF: the watch has ended */
#define CONN_EVENT_ROUND       0x40u  /* a window of bytes was acknowledged above ssthresh */
#define CONN_EVENT_LOSS	       0x80u  /* a loss was found: ssthresh is half of what was in flight */
#define CONN_EVENT_MARK	       0x100u /* the peer has echoed congestion marks */
#define CONN_EVENT_UNDO	       0x200u /* the last loss was none: the window from before it is back */

/* Written by post, notify and the scheduler; one cache line. */
struct host_state {
	uint32_t rx_page; /* receive buffer in the region, units of 4 KiB */
	uint32_t tx_page;
	uint32_t rx_notified; /* position last told to the application */
	uint32_t tx_notified;
	uint32_t ntf_next;
	uint32_t event_next;
	uint16_t context; /* the data path's number of it */
	uint16_t flags;	  /* HOST_* */
	uint8_t rx_shift;
	uint8_t tx_shift;
	uint16_t events; /* CONN_EVENT_* not yet told */
	uint32_t reserved1;
	uint32_t retransmits;	 /* segments */
	uint64_t bytes_received; /* in order, without FIN */
	uint64_t bytes_acked;
	uint32_t rx_origin; /* seq of the byte that lies at the receive buffer's start: see abi.h */
	uint32_t tx_origin; /* the same of the transmit buffer */
};

struct conn {
	CACHE_ALIGNED struct conn_identity id;
	CACHE_ALIGNED struct tcp_state tcp;
	CACHE_ALIGNED struct host_state host;
};

_Static_assert(sizeof(struct conn_identity) == 64, "identity is one cache line");
_Static_assert(sizeof(struct tcp_state) <= 128, "protocol state is two cache lines");
_Static_assert(sizeof(struct host_state) == 64, "host state is one cache line");
_Static_assert(sizeof(struct conn) == 256, "state budget of a connection");

#endif
