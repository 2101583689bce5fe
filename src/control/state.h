/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the files of the control plane share: its state and the functions they offer each other. Included by
 * src/control and its unit tests only. Everything runs on the control plane's thread.
 *
 * Every four-tuple the engine knows is in one table (flows.c) and belongs to one of three things: a handshake
 * (handshake.c), a connection in the data path (conns.c), or a TIME-WAIT entry (time_wait.c). Their arrays
 * are indexed, reserved at start and touched when used, so what is not used costs nothing.
 */
#ifndef CONTROL_STATE_H
#define CONTROL_STATE_H

#include <stdarg.h>
#include <sys/types.h>

#include "control/control.h"
#include "control/region_guard.h"
#include "core/seq.h"
#include "core/wheel.h"

#define INDEX_NONE 0xffffffffu
#define APP_NONE   0xffffu

/* Bytes of control records that must fit before one exception or timer is handled: the most that one causes.
 */
#define CTL_ROOM_MIN 8192u

#define HANDSHAKES_MAX 65536u
#define BACKLOG_MAX    4096u /* of a listener, as Linux's somaxconn: no listener takes all handshakes */
#define HALF_OPEN_MAX                                                                                        \
	(HANDSHAKES_MAX / 4u * 3u) /* passive ones of all listeners: the rest is for our own                 \
				    */
#define APP_SHARE_MAX  32768u	   /* handshakes, and endpoints, of one application */
#define ENDPOINTS_MAX  65536u
#define MEMBERS_MAX    131072u
#define NEIGHBOURS_MAX 1024u
#define CLIENTS_MAX    4096u /* of the control channel */
#define COOKIES_USED   4096u /* SYN cookies remembered as used up */

#define TIMER_TICK_US 1000u
#define TIMER_SLOTS   4096u

/* ---- timers ---- */

enum timer_kind { TIMER_CONN = 1, TIMER_HANDSHAKE, TIMER_NEIGHBOUR };

struct timer {
	struct wheel_entry entry;
	uint32_t kind;
	uint32_t index; /* in the array of its kind */
};

/* ---- four-tuples ---- */

struct flow_key {
	be32 local_addr, remote_addr;
	be16 local_port, remote_port;
};

struct flow_node {
	struct flow_key key;
	uint32_t next; /* reference + 1 of the next node in the bucket, 0: the last */
};

enum flow_kind { FLOW_HANDSHAKE = 0, FLOW_CONN, FLOW_TIME_WAIT };
#define FLOW_REF(kind, index) ((uint32_t)(kind) << 30 | (index))
#define FLOW_REF_KIND(ref)    ((enum flow_kind)((ref) >> 30))
#define FLOW_REF_INDEX(ref)   ((ref)&0x3fffffffu)

/* ---- segments ---- */

struct tcp_options {
	uint16_t mss;	/* 0: absent */
	uint8_t wscale; /* with has_wscale; at most 14 (RFC 7323 2.3) */
	bool has_wscale, sack_permitted, has_timestamps;
	uint32_t tsval, tsecr;
};

/* A received TCP segment, checked and taken apart. */
struct segment {
	const uint8_t *frame;
	uint32_t frame_len;
	uint16_t frame_flags;
	unsigned port;
	uint8_t src_mac[6];
	struct flow_key key;
	uint32_t seq, ack;
	uint32_t payload_len;
	uint16_t wnd; /* not scaled */
	uint8_t ctl;  /* TCP_*_ */
	struct tcp_options options;
};

/* A segment without payload to send. */
struct segment_out {
	unsigned port;
	const uint8_t *dst_mac;
	struct flow_key key;
	uint32_t seq, ack;
	uint16_t wnd; /* as it goes on the wire */
	uint8_t ctl;
	uint8_t tos, ttl; /* ttl 0: CONN_TTL */
	bool timestamps;
	uint32_t tsval, tsecr;
	/* with SYN only */
	uint16_t mss;
	bool has_wscale, sack_permitted;
	uint8_t wscale;
};

/* ---- socket options (options.c) ---- */

/* As in struct flextoe_hc_options, checked. All 0: what a socket begins with. */
struct socket_options {
	uint32_t user_timeout_ms;
	uint16_t keep_idle_s; /* 0: no keepalive */
	uint16_t keep_interval_s;
	int16_t linger2_s;
	uint16_t maxseg;
	uint16_t defer_accept_s;
	uint8_t keep_count;
	uint8_t syn_retries;
	uint8_t tos, ttl;
	uint8_t congestion;
};

/* ---- handshakes ---- */

enum handshake_state { HANDSHAKE_FREE = 0, HANDSHAKE_SYN_SENT, HANDSHAKE_SYN_RECEIVED };

/* A frame that came for a parked handshake; it is run through the data path when that is handed over. */
struct parked_frame {
	struct parked_frame *next;
	uint16_t port, flags;
	uint32_t len;
	uint8_t bytes[];
};

struct handshake {
	struct flow_node flow;
	struct timer timer;
	uint32_t next, prev; /* of the listener's or the application's list; free list by next */
	uint32_t waiting_next, waiting_prev; /* of the list waiting for a neighbour */
	uint32_t neighbour;		     /* with `waiting` */
	uint32_t endpoint;		     /* passive: the listener */
	uint32_t cookie;		     /* active: of the CONNECT */
	uint32_t iss, irs;		     /* our and the peer's initial sequence number */
	uint32_t ts_recent;
	uint32_t snd_wnd; /* last window the peer told, scaled as it must be */
	uint64_t sent_us; /* of the first SYN or SYN-ACK, for the round trip */
	uint64_t started_us;
	struct parked_frame *frames; /* parked: what the peer has sent, in order */
	uint32_t frames_bytes;
	uint32_t frames_end;   /* seq after the last of them */
	uint32_t rtt_us;       /* of the handshake, 0: it was retransmitted */
	uint32_t member;       /* passive, complete: who gets the connection */
	uint16_t app, context; /* active */
	uint16_t peer_mss;
	uint8_t state; /* enum handshake_state */
	uint8_t retries;
	uint8_t port;
	uint8_t mac[6];				      /* next hop */
	bool active;				      /* ours: CONNECT */
	bool waiting;				      /* for the next hop's answer to ARP */
	bool ecn_asked;				      /* our SYN was one of ECN setup */
	bool ecn;				      /* both sides want it */
	bool acked;				      /* but its listener waits for data (TCP_DEFER_ACCEPT) */
	bool parked;				      /* complete, and nobody has asked for the connection */
	bool peer_timestamps, peer_sack, peer_wscale; /* offered by the peer's SYN (and by ours) */
	uint8_t snd_wscale, rcv_wscale;
	uint8_t rx_shift, tx_shift;
	struct socket_options options;
};

/* ---- endpoints and listeners ---- */

enum endpoint_state { ENDPOINT_FREE = 0, ENDPOINT_BOUND, ENDPOINT_LISTENING, ENDPOINT_CLOSING };

struct endpoint {
	uint32_t port_next;  /* of those with the same local port; free list too */
	uint32_t next, prev; /* of its owner's list */
	uint32_t closing_next;
	uint32_t generation;
	uint32_t cookie;
	uint32_t backlog;
	uint32_t half_open;			 /* handshakes in progress */
	uint32_t queued;			 /* connections that accept() has not returned yet */
	uint32_t parked;			 /* complete, with no member that has asked for them */
	uint32_t handshake_head, handshake_tail; /* those in progress, oldest first */
	uint32_t parked_head, parked_tail;
	uint32_t member_head, member_count; /* whose turn it is first */
	uint32_t holds;			    /* channels that keep it alive */
	uint32_t feed_next;		    /* of those to be looked at again */
	uint32_t token[2];		    /* who shows it may join */
	uint32_t conn_head;		    /* those queued */
	uint64_t close_us;		    /* ENDPOINT_CLOSING: when what is still queued is reset */
	uint64_t cookies_us;		    /* until then an ACK may bring a SYN cookie back */
	be32 addr;			    /* 0: any */
	be16 port;
	uint16_t app;	/* the owner, who has bound it; APP_NONE: it has given it up */
	uint16_t flags; /* FLEXTOE_BIND_* */
	uint32_t uid;	/* of the owner */
	uint8_t state;
	uint8_t rx_shift, tx_shift;
	struct socket_options options; /* connections begin with them */
	bool feeding;		       /* in the list by feed_next */
};

/* Who accepts from a listener: one context of an application. */
struct member {
	uint32_t next;		     /* of the listener's, and free list */
	uint32_t app_next, app_prev; /* of the application's list */
	uint32_t endpoint;
	uint32_t cookie;
	uint32_t limit, granted; /* connections asked for, and handed over, since it joined */
	uint32_t waiting;	 /* handed over and not accepted */
	uint16_t app, context;
	bool push; /* gets everything at once, without asking */
};

/* ---- connections in the data path ---- */

#define CTLCONN_USED	  0x0001u
#define CTLCONN_IN_FLOWS  0x0002u
#define CTLCONN_DEAD	  0x0004u /* TCP has ended */
#define CTLCONN_RELEASED  0x0008u /* the application gave it up, or is gone */
#define CTLCONN_REMOVING  0x0010u /* CTL_REMOVE is on its way */
#define CTLCONN_QUEUED	  0x0020u /* in its listener's queue */
#define CTLCONN_ACTIVE	  0x0040u /* opened by us: its port is counted */
#define CTLCONN_RESET	  0x0080u /* CTL_RESET is on its way */
#define CTLCONN_WATCHED	  0x0100u /* CONN_EVENT_TIMER came and CTL_TIMERS_OFF has not succeeded */
#define CTLCONN_OFF_ASKED 0x0200u /* CTL_TIMERS_OFF is on its way */

struct control_conn {
	struct flow_node flow;
	struct timer timer;
	uint32_t app_next, app_prev;	 /* of the application's list; free list by app_next */
	uint32_t queue_next, queue_prev; /* of the listener's queue */
	uint32_t endpoint;		 /* with CTLCONN_QUEUED */
	uint32_t member;		 /* the same: who has it, INDEX_NONE: one that is gone */
	uint32_t generation;
	uint32_t rx_page, tx_page;
	uint64_t orphan_since_us; /* since when a released connection waits for nothing but the peer, 0: it
				     does not */
	uint16_t app;
	uint16_t flags;
	uint8_t rx_shift, tx_shift;
	uint8_t soft_error; /* errno value of an ICMP error since the last progress, 0: none */
	struct socket_options options;
	uint32_t una_seen;   /* snd_una when it was last looked at */
	uint32_t heard_mark; /* changes when something comes from the peer: see liveness.c */
	uint64_t una_us;     /* since when it stands there with something to wait for */
	uint64_t heard_us;   /* when the peer was last heard of, as far as is known */
	uint64_t keep_us;    /* with keep_sent: when the last keepalive probe was sent */
	bool keep_sent;
};

/* ---- TIME-WAIT ---- */

struct time_wait {
	struct flow_node flow;
	uint32_t next, prev; /* oldest first; free list by next */
	uint64_t due_us;
	uint64_t entered_us;
	uint32_t snd_nxt, rcv_nxt;
	uint32_t ts_recent;
	uint16_t wnd; /* as it goes on the wire */
	uint8_t port;
	uint8_t mac[6];
	bool timestamps;
	bool active; /* its port is counted */
	bool used;
};

/* ---- neighbours ---- */

enum neighbour_state { NEIGHBOUR_FREE = 0, NEIGHBOUR_ASKED, NEIGHBOUR_KNOWN };

struct neighbour {
	struct timer timer;
	be32 addr;
	uint8_t port;
	uint8_t state;
	uint8_t tries;
	uint8_t mac[6];
	uint64_t confirmed_us, used_us;
	uint32_t waiting; /* list of handshakes */
};

/* ---- routes ---- */

struct route {
	uint32_t prefix, mask; /* host order */
	uint32_t prefix_len;
	unsigned port;
	be32 gateway; /* 0: on the link */
};

struct route_result {
	unsigned port;
	be32 next_hop;
	be32 source; /* address of ours to send from */
	bool loop;   /* to ourselves */
};

/* ---- path MTUs ---- */

#define PMTUS 256u

struct pmtu { /* a collision forgets the older one: it is found out again */
	be32 addr;
	uint16_t mtu;
	uint64_t until_us;
};

/* ---- buffers ---- */

#define BUFFER_SHIFT_MIN 12u
#define BUFFER_SHIFT_MAX 26u
#define BUFFER_CLASSES	 (BUFFER_SHIFT_MAX - BUFFER_SHIFT_MIN + 1u)
/* Free memory of an application's region that is kept resident; what lies free above it goes back to the
 * kernel. */
#define BUFFERS_KEEP_BYTES (32u << 20)

struct buffer_class {
	uint32_t *pages; /* stack of free buffers; the first `cold` of them hold no memory */
	uint32_t count, cold, capacity, made;
};

struct buffers {
	struct buffer_class class[BUFFER_CLASSES];
	uint64_t next, end;  /* of the region: not handed out yet */
	uint64_t warm_bytes; /* free, and possibly resident */
	uint64_t used_bytes;
	int fd; /* memfd, or -1: base is used */
	uint8_t *base;
};

/* ---- applications ---- */

enum app_state { APP_FREE = 0, APP_ALIVE, APP_CLOSING, APP_DRAINING };

struct app {
	uint8_t state;
	bool close_now;	 /* no grace for connections the application has closed in order */
	bool own_region; /* memory of this process, not a memfd */
	uint16_t number;
	int region_fd;
	uint8_t *region;
	uint64_t region_size;
	int guard;	       /* of the region, see region_guard.h */
	struct client *client; /* its end of the control channel, or NULL */
	uint32_t pid, uid;
	char name[28];
	uint32_t contexts[FLEXTOE_CONTEXTS_MAX]; /* the data path's number, or INDEX_NONE */
	uint32_t context_count;
	uint32_t conn_head, conn_count;
	uint32_t endpoint_head;
	uint32_t member_head;
	uint32_t handshake_head; /* active ones */
	uint32_t handshake_count, endpoint_count;
	uint32_t cursor; /* CLOSING: next connection to reset */
	bool pass_done;	 /* CLOSING: cursor has reached the end */
	bool grace_over;
	uint64_t begin_us; /* CLOSING: not before */
	uint64_t grace_us; /* CLOSING: until then connections closed in order may finish */
	uint64_t drained_us;
	uint32_t next_closing; /* list of those going */
	struct buffers buffers;
};

struct context {
	bool used;
	uint16_t app;
	uint16_t number; /* the application's */
	int wake_fd;
	struct flextoe_context_area *area;
	struct socket_options connect_options; /* of its next CONNECT */
};

/* A peer of the control channel: an application, or a tool that asks for a report. */
struct client {
	struct client *next;
	int fd;
	uint32_t app;  /* number, or INDEX_NONE */
	uint32_t hold; /* name of the listener it keeps alive, or 0 */
	bool entered;  /* over another's channel: its messages carry who it is */
	uint32_t pid, uid;
	struct report *report; /* being sent, or NULL */
	char *text;	       /* piece that waits for the socket */
	size_t text_len, text_sent;
};

/* Tokens for `rate` events a second, at most `burst` at once. */
struct rate_limit {
	uint32_t rate, burst;
	uint64_t tokens_us; /* microseconds of credit */
	uint64_t last_us;
};

struct control {
	struct control_config config;
	struct datapath *dp;
	uint64_t now_us;
	uint64_t counters[COUNTERS];
	uint64_t secret[2];

	struct wheel wheel;
	uint64_t timers_look_us; /* the wheel need not be looked at before */
	uint64_t timers_next_us; /* nothing in the wheel is due before */

	uint32_t *flow_buckets;
	uint32_t flow_mask;

	struct control_conn *conns;
	uint32_t conns_max, conns_high, conn_free; /* those below conns_high were used at least once */
	uint32_t conns_open;

	struct handshake *handshakes;
	uint32_t handshakes_high, handshake_free, handshakes_used;
	uint32_t half_open; /* passive ones */
	uint32_t cookies_used[COOKIES_USED];

	struct endpoint *endpoints;
	uint32_t endpoints_high, endpoint_free;
	uint32_t *port_endpoints; /* by local port (host order): index + 1 of the first, 0: none */
	uint32_t *port_uses;	  /* by local port: connections we opened from it, TIME-WAIT included */
	uint32_t ephemeral_next;
	struct flow_key ports_out; /* no port is left towards here, */
	uint64_t ports_out_us;	   /* until then, or until one is given back */
	uint32_t endpoints_closing;
	uint32_t endpoints_feed; /* those that may have connections to hand over */
	struct member *members;
	uint32_t members_high, member_free;
	uint32_t parked_bytes; /* of all frames of parked handshakes */

	struct time_wait *time_waits;
	uint32_t time_wait_max, time_wait_high, time_wait_free, time_wait_head, time_wait_tail,
		time_wait_count;

	struct neighbour neighbours[NEIGHBOURS_MAX];
	uint32_t neighbours_high;
	uint32_t move_cursor, move_neighbour; /* connections being told of a next hop's new address */

	struct pmtu pmtu[PMTUS];
	struct congestion *congestion; /* by connection */

	struct route routes[CONTROL_ADDRESSES_MAX + CONTROL_ROUTES_MAX];
	uint32_t route_count;

	struct app *apps;
	uint32_t apps_max, apps_high;
	uint32_t apps_closing;
	uint32_t guard_faults; /* region_guard_faults() as last seen */
	bool quitting;
	struct context *contexts;
	uint32_t contexts_max;

	int epoll_fd, listen_fd;
	int spare_fd; /* given up for a moment to turn a client away when there is no other */
	struct client *clients;
	uint32_t clients_count;

	struct rate_limit reset_limit, ack_limit, icmp_limit, log_limit;
	uint32_t log_lost;
	uint64_t start_us;
};

#define COUNT(ctl, name) ((ctl)->counters[CNT_##name]++)

/* control.c */
void control_log(struct control *ctl, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* A frame to send or to inject. One that does not fit is counted, and sent again by somebody's timer. */
int control_frame(struct control *ctl, enum ctl_type type, unsigned port, uint16_t flags, const void *bytes,
	uint32_t len);
bool rate_take(struct rate_limit *limit, uint64_t now_us);
void *array_reserve(size_t count, size_t size); /* zeroed, touched when used; NULL */
void array_release(void *array, size_t count, size_t size);
static inline bool ctl_has_room(struct control *ctl)
{
	return datapath_ctl_room(ctl->dp) >= CTL_ROOM_MIN;
}
bool address_is_ours(const struct control *ctl, be32 addr);

/* flows.c */
int flows_init(struct control *ctl);
void flows_free(struct control *ctl);
uint32_t flows_find(const struct control *ctl, const struct flow_key *key); /* reference or INDEX_NONE */
void flows_add(struct control *ctl, uint32_t ref);
void flows_del(struct control *ctl, uint32_t ref);
uint64_t flow_key_hash(const struct control *ctl, const struct flow_key *key);

/* segments.c */
bool segment_parse(const struct exc_frame *exc, struct segment *seg);
void options_parse(const uint8_t *p, uint32_t len, struct tcp_options *out);
int segment_send(struct control *ctl, const struct segment_out *out);
void segment_reset_reply(struct control *ctl, const struct segment *seg);
uint32_t segment_iss(struct control *ctl, const struct flow_key *key);
static inline uint32_t segment_len(const struct segment *seg) /* SEG.LEN of RFC 9293: SYN and FIN count */
{
	return seg->payload_len + !!(seg->ctl & TCP_SYN_) + !!(seg->ctl & TCP_FIN_);
}
static inline uint32_t timestamp_now(const struct control *ctl)
{
	return (uint32_t)(ctl->now_us / 1000u);
}

/* handshake.c */
int handshakes_init(struct control *ctl);
void handshakes_free(struct control *ctl);
void handshake_listen(struct control *ctl, const struct segment *seg, const struct time_wait *old);
void handshake_segment(struct control *ctl, uint32_t index, const struct segment *seg);
int handshake_connect(struct control *ctl, const struct flow_key *key, const struct route_result *route,
	uint16_t app, uint16_t context, const struct flextoe_hc_endpoint *hc,
	const struct socket_options *options, uint32_t iss_above, bool iss_bounded);
void handshake_timer(struct control *ctl, uint32_t index);
void handshake_neighbour(
	struct control *ctl, uint32_t index, const uint8_t *mac); /* NULL: it did not answer */
void handshake_error(struct control *ctl, const struct flow_key *key, uint32_t seq, int error);
void handshake_take(struct control *ctl, uint32_t index); /* it has become a connection */
void handshake_drop(struct control *ctl, uint32_t index); /* without a word */
/* Makes a parked one, whose member is set, a connection: 0 or a negative errno (then it is as it was). */
int handshake_hand_over(struct control *ctl, uint32_t index);
void handshake_refuse(struct control *ctl, uint32_t index); /* a parked one: its peer is reset */

/* cookie.c */
#define COOKIE_PERIOD_US (UINT64_C(64) << 20) /* 67 s: longer than a peer repeats its first segment for */
enum cookie {
	COOKIE_BAD = 0,
	COOKIE_EARLY, /* ours, but the segment is not the first one behind the SYN */
	COOKIE_GOOD,
};
/* An initial sequence number that says what the peer's SYN said; mss 64 at least. */
uint32_t cookie_make(const struct control *ctl, const struct flow_key *key, uint32_t irs, uint16_t mss);
/* Whether iss is such a number; with COOKIE_GOOD, mss is at most what the SYN said. */
enum cookie cookie_check(
	const struct control *ctl, const struct flow_key *key, uint32_t irs, uint32_t iss, uint16_t *mss);
/* What timestamps carry of the SYN's options, there and back. */
uint32_t cookie_timestamp(const struct control *ctl, const struct tcp_options *o);
void cookie_options(uint32_t tsecr, struct tcp_options *o);

/* listener.c */
int endpoints_init(struct control *ctl);
void endpoints_free(struct control *ctl);
void endpoint_request(struct control *ctl, const struct exc_hc *exc);
/* The application's endpoint of this name, or NULL. */
struct endpoint *endpoint_named(struct control *ctl, uint32_t name, uint16_t app);
struct endpoint *listener_find(struct control *ctl, const struct flow_key *key);
static inline uint32_t listener_index(const struct control *ctl, const struct endpoint *ep)
{
	return (uint32_t)(ep - ctl->endpoints);
}
struct endpoint *endpoint_find(
	struct control *ctl, uint32_t name); /* a listening one of this name, or NULL */
/* The owner has given it up. */
void endpoint_disown(struct control *ctl, uint32_t index);
/* Ends it when nobody has it any more. */
void endpoint_settle(struct control *ctl, uint32_t index);
void endpoints_step(struct control *ctl);
uint64_t endpoints_next_us(const struct control *ctl);
void notify_result(struct control *ctl, uint16_t context, uint8_t request, uint32_t cookie, uint32_t endpoint,
	be32 addr, be16 port, int error);
void port_release(struct control *ctl, be16 port);

/* options.c */
void options_request(struct control *ctl, const struct exc_hc *exc);

/* liveness.c */
/* The options of a connection are known, or are others now. */
void liveness_begin(struct control *ctl, uint32_t index);
/* Looks whether its peer is alive, and probes. True: it was given up. *next_us: look again no later. */
bool liveness_look(struct control *ctl, uint32_t index, const struct tcp_state *tcp, uint64_t *next_us);

/* member.c */
int members_init(struct control *ctl);
void members_free(struct control *ctl);
uint32_t member_find(const struct control *ctl, const struct endpoint *ep, uint16_t app, uint16_t context);
int member_listen(
	struct control *ctl, uint32_t endpoint, uint16_t app, uint16_t context, uint32_t cookie, bool push);
int member_join(struct control *ctl, struct app *app, uint16_t context, const struct flextoe_hc_join *join);
int member_want(struct control *ctl, struct app *app, uint16_t context, const struct flextoe_hc_want *want);
void member_leave(struct control *ctl, uint32_t index); /* the endpoint is to be settled then */
void members_leave_context(struct control *ctl, struct app *app, uint16_t context);
/* Whose turn it is to get a connection, or INDEX_NONE: nobody has asked. */
uint32_t member_choose(struct control *ctl, uint32_t endpoint);
void member_accepted(struct control *ctl, uint32_t member);
/* Hands parked connections over, as far as they are asked for. */
void members_feed(struct control *ctl, uint32_t endpoint);
void members_step(struct control *ctl); /* goes on with what found the ring to the data path full */

/* conns.c */
struct control_conn *conn_named(struct control *ctl, uint32_t handle, uint16_t app); /* or NULL */
int conns_init(struct control *ctl);
void conns_free(struct control *ctl);
/* Makes a handshake a connection: 0 or a negative errno (then the handshake is as it was). */
int conn_open(struct control *ctl, struct handshake *hs, uint32_t snd_wnd, bool ack_now);
void conn_events(struct control *ctl, const struct exc_conn *exc);
void conn_reset(struct control *ctl, uint32_t index, int error);
void conn_give_up(struct control *ctl, uint32_t index); /* as if the application had released it */
const char *conn_state_name(const struct conn *conn);

/* time_wait.c */
int time_wait_init(struct control *ctl);
void time_wait_free(struct control *ctl);
void time_wait_enter(struct control *ctl, const struct conn *conn, const struct flow_key *key, bool active);
void time_wait_segment(struct control *ctl, uint32_t index, const struct segment *seg);
void time_wait_drop(struct control *ctl, uint32_t index);
void time_wait_step(struct control *ctl);

/* neighbour.c */
void neighbours_announce(struct control *ctl);
void neighbour_arp(struct control *ctl, const struct exc_frame *exc);
/* Fills in the next hop's address: 0, -EINPROGRESS (handshake_neighbour() will tell), -ENOBUFS. */
int neighbour_resolve(struct control *ctl, unsigned port, be32 addr, uint32_t handshake, uint8_t mac[6]);
void neighbour_forget(struct control *ctl, uint32_t handshake);
void neighbour_timer(struct control *ctl, uint32_t index);
void neighbours_step(struct control *ctl);

/* icmp.c */
void icmp_frame(struct control *ctl, const struct exc_frame *exc);

/* congestion.c */
int congestion_init(struct control *ctl);
void congestion_free(struct control *ctl);
/* CONN_EVENT_ROUND, _LOSS, _MARK of a connection. */
void congestion_event(struct control *ctl, uint32_t index, uint32_t events);
/* Which algorithm, as enum flextoe_congestion, and its name. */
uint8_t congestion_of(const struct control *ctl, const struct socket_options *options);
const char *congestion_name(const struct control *ctl, const struct socket_options *options);
bool congestion_accurate_ecn(const struct control *ctl, const struct socket_options *options);

/* pmtu.c */
uint32_t pmtu_of(struct control *ctl, be32 addr); /* bytes of a packet; UINT32_MAX: nothing is known */
/* A router cannot pass on a packet of a connection; mtu 0: it does not say what it could. */
void pmtu_told(struct control *ctl, uint32_t index, uint32_t mtu, uint32_t quoted_len);

/* route.c */
int routes_init(struct control *ctl, char err[256]);
int route_find(const struct control *ctl, be32 dst, struct route_result *out); /* 0 or -ENETUNREACH */
bool route_on_link(const struct control *ctl, unsigned port, be32 addr);

/* timers.c */
void timer_set(struct control *ctl, struct timer *timer, uint32_t kind, uint32_t index, uint64_t due_us);
void timer_stop(struct control *ctl, struct timer *timer);
unsigned timers_step(struct control *ctl);
uint64_t timers_next_us(struct control *ctl);		 /* UINT64_MAX: never */
void timers_watch(struct control *ctl, uint32_t index);	 /* CONN_EVENT_TIMER */
void timers_idle(struct control *ctl, uint32_t index);	 /* CONN_EVENT_TIMERS_IDLE */
void timers_orphan(struct control *ctl, uint32_t index); /* the application has released it */
/* Looks after a connection no later than this. */
void timers_look(struct control *ctl, uint32_t index, uint64_t due_us);

/* buffers.c */
void app_buffers_init(struct buffers *b, int fd, uint8_t *base, uint64_t start, uint64_t end);
void app_buffers_free(struct buffers *b);
int app_buffers_alloc(struct buffers *b, unsigned shift, uint32_t *page);
void app_buffers_release(struct buffers *b, unsigned shift, uint32_t page);
unsigned app_buffers_trim(
	struct buffers *b, unsigned max); /* gives up to max buffers' memory back; how many it did */

/* applications.c */
int apps_init(struct control *ctl);
void apps_free(struct control *ctl);
int app_create(
	struct control *ctl, const char *name, uint32_t pid, uint32_t uid, bool memfd, struct app **out);
int app_context_add(struct control *ctl, struct app *app, uint32_t *number);
void app_close(struct control *ctl, struct app *app, bool close_now);
void app_broken(struct control *ctl, const struct exc_broken *exc);
void apps_step(struct control *ctl);
uint64_t apps_next_us(const struct control *ctl);

/* channel.c */
int channel_init(struct control *ctl, char err[256]);
void channel_free(struct control *ctl);
unsigned channel_step(struct control *ctl);
/* Looks whether channels that hold this endpoint have hung up; it is no longer held by those. */
void channel_holds_look(struct control *ctl, uint32_t name);

/* report.c */
struct report *report_begin(struct control *ctl, uint32_t what); /* NULL: out of memory, or no such report */
/* The next piece, for free(): its length, 0 at the end, or a negative errno. */
ssize_t report_piece(struct control *ctl, struct report *report, char **text);
void report_end(struct report *report);

#endif
