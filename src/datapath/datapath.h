/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The data path as the control plane and the daemon see it. One thread polls it; the control plane talks to
 * it through two single-producer single-consumer record rings (control work down, exceptions up), so it may
 * run on the same thread or on another. The functions marked [control] are for the control plane's thread,
 * those marked [poll] for the polling thread.
 *
 *   frames -> pre -> protocol -> post -> dma -> notify -> application
 *                       ^                          wire -> frames
 *   host control -------+--- CTL records <------- control plane <--- exceptions
 */
#ifndef DATAPATH_DATAPATH_H
#define DATAPATH_DATAPATH_H

#include "core/conn.h"
#include "core/counters.h"
#include "copy/copy.h"
#include "device/device.h"
#include "flextoe/abi.h"

struct datapath;

#define DATAPATH_PORTS_MAX    8u
#define DATAPATH_CONTEXT_NONE 0xffffu

struct datapath_config {
	uint32_t conns_max;    /* connections, up to 2^22 - 1 */
	uint32_t apps_max;     /* applications = regions, up to 65535 */
	uint32_t contexts_max; /* of all applications, up to 65534 */
	uint32_t ooo_max; /* connections that may have out-of-order data at once; 0: conns_max / 8 + 64 */
	struct copy_engine *copy; /* not owned */
	/* Wakes the sleeper of a context; called at most once a batch and context. */
	void (*kick)(void *arg, uint32_t context);
	void *kick_arg;
};

/* Returns NULL when memory is short. Nothing in it is touched before it is used: an idle table costs nothing.
 */
struct datapath *datapath_create(const struct datapath_config *config);
void datapath_destroy(struct datapath *dp);

/* [poll, before the first poll] Adds a device; returns the port's index or -ENOSPC. The device stays the
 * caller's. */
int datapath_port_add(struct datapath *dp, struct device *dev);
struct device *datapath_port(struct datapath *dp, unsigned port);
unsigned datapath_port_count(const struct datapath *dp);

/*
 * [poll] One round: a batch from each source of work, run to completion. now_us is CLOCK_MONOTONIC in
 * microseconds (or virtual time). Returns the number of work items handled, 0 when there was nothing to do.
 */
unsigned datapath_poll(struct datapath *dp, uint64_t now_us);

/*
 * [poll] Before sleeping: tells every context that the engine sleeps (they then ring the doorbell) and looks
 * once more. True: there is work, do not sleep. datapath_sleep_end() must follow in either case.
 * datapath_more() is true when work is left that needs no event to go on (the scheduler is not empty).
 */
bool datapath_sleep_begin(struct datapath *dp);
/* [poll] After datapath_sleep_begin(), to sleep without bound. True: applications have been told to ring.
   False: one that is awake or is just being woken may leave its doorbell unrung (see include/flextoe/abi.h),
   so sleep no longer than DATAPATH_LOOK_US. */
#define DATAPATH_LOOK_US 1000u
bool datapath_sleep_deep(struct datapath *dp);
/* [poll] True when every application sleeps: looking for work takes nothing from them, also on their own
 * core. */
/* An application has broken a rule that the caller watches over: its context ends, with the reason (a
 * literal) in the log. From the kick, too. */
void datapath_context_break(struct datapath *dp, uint32_t context, const char *reason);
bool datapath_core_idle(const struct datapath *dp);
/* [poll] True when an application that is awake or is just being woken was last seen on the engine's core: it
   waits for that core, and runs until it sleeps when the engine yields. */
bool datapath_core_wanted(const struct datapath *dp);
/* [poll] Tells the core this thread runs on, for who wakes whom when; -1: not known. */
void datapath_cpu_set(struct datapath *dp, int cpu);
void datapath_sleep_end(struct datapath *dp);
bool datapath_more(const struct datapath *dp);

/* Connection by index; never NULL for index < conns_max. Whose memory it is: see core/conn.h. */
struct conn *datapath_conn(struct datapath *dp, uint32_t index);
uint32_t datapath_conns_max(const struct datapath *dp);
/* [control] Bytes of a connection's that were acknowledged with an echo of a congestion mark, modulo 2^32. */
uint32_t datapath_marked(const struct datapath *dp, uint32_t index);

/* Counters of the data path's thread; others may read them while they change. */
const uint64_t *datapath_counters(const struct datapath *dp);

/* ---- control work (control plane -> data path) ---- */

enum ctl_type {
	CTL_INSTALL = 1, /* ctl_conn: the prepared connection goes into the flow table */
	CTL_REMOVE,	 /* ctl_conn: forget it; CONN_EVENT_REMOVED answers */
	CTL_RESET,	 /* ctl_conn: send RST, the connection ends with `error` */
	CTL_TIMEOUT,	 /* ctl_conn: a deadline seems to have passed: look, and act if so */
	CTL_TIMERS_OFF,	 /* ctl_conn: no deadline seemed set: CONN_EVENT_TIMERS_IDLE or CONN_EVENT_TIMER
			    answers */
	CTL_KEEPALIVE,	 /* ctl_conn: probe an idle peer; nothing when it is not idle any more */
	CTL_MTU,	 /* ctl_mtu: the path to one peer takes only smaller packets */
	CTL_WINDOW,	 /* ctl_window: congestion control has decided */
	CTL_OPTIONS,	 /* ctl_options: DSCP and TTL of what one connection sends */
	CTL_NEIGHBOUR,	 /* ctl_neighbour: a new next hop for one connection */
	CTL_REGION,	 /* ctl_region: a region comes (base) or goes (base NULL) */
	CTL_CONTEXT,	 /* ctl_context: a context comes (area) or goes (area NULL) */
	CTL_NOTIFY,	 /* ctl_notify: put this into a context's ring */
	CTL_SEND,	 /* ctl_frame: transmit the frame as it is (checksums filled in by the caller) */
	CTL_INJECT,	 /* ctl_frame: run the frame through the pipeline as if received on the port */
};

struct ctl_conn {
	uint32_t type;
	uint32_t conn;	/* index */
	uint32_t error; /* CTL_RESET: errno value; CTL_TIMEOUT: what it ends with if it is given up, 0:
			   ETIMEDOUT */
	uint32_t flags; /* CTL_INSTALL: CTL_INSTALL_ACK */
};
#define CTL_INSTALL_ACK 0x1u /* send an ACK at once (third segment of an active open) */

struct ctl_mtu {
	uint32_t type;
	uint32_t conn;
	uint32_t mtu; /* bytes of an IP packet */
};
struct ctl_window {
	uint32_t type;
	uint32_t conn;
	uint32_t cwnd, ssthresh; /* bytes; 0: leave it. In recovery cwnd is left */
	bool cwr;		 /* tell the peer (RFC 3168 6.1.2) */
};
struct ctl_options {
	uint32_t type;
	uint32_t conn;
	uint8_t tos, ttl;
	uint8_t reserved[2];
};
struct ctl_neighbour {
	uint32_t type;
	uint32_t conn;
	uint8_t mac[6];
	uint8_t reserved[2];
};
struct ctl_region {
	uint32_t type;
	uint32_t app;
	uint8_t *base;
	uint64_t size;
};
struct ctl_context {
	uint32_t type;
	uint16_t context;
	uint16_t app;
	struct flextoe_context_area *area;
};
struct ctl_notify {
	uint32_t type;
	uint32_t context;
	struct flextoe_ntf ntf; /* its mark is set by the data path */
};
struct ctl_frame {
	uint32_t type;
	uint16_t port;
	uint16_t flags; /* FRAME_CSUM_GOOD for CTL_INJECT */
	uint32_t len;
	uint8_t bytes[];
};

/* [control] Queues a record (a struct ctl_*) of `len` bytes: 0, or -EAGAIN when the ring is full. */
int datapath_ctl(struct datapath *dp, const void *record, uint32_t len);
/* [control] Queues a CTL_SEND or CTL_INJECT with the frame's bytes copied. */
int datapath_ctl_frame(struct datapath *dp, enum ctl_type type, unsigned port, uint16_t flags,
	const void *bytes, uint32_t len);
/* [control] Bytes of records that surely fit now. */
uint32_t datapath_ctl_room(const struct datapath *dp);
/* [control] True when everything queued so far has been carried out. */
bool datapath_ctl_drained(const struct datapath *dp);

/* What an established connection starts with. Sequence numbers are host order. */
struct conn_setup {
	be32 local_addr, remote_addr; /* IPv4 */
	be16 local_port, remote_port;
	uint8_t remote_mac[6];
	uint8_t port;
	uint8_t tos, ttl;
	uint16_t app;
	uint16_t context;
	uint32_t handle;
	uint32_t iss, irs;    /* initial sequence numbers */
	uint32_t snd_wnd;     /* bytes, already scaled */
	uint32_t rcv_adv_wnd; /* bytes our SYN offered (not scaled) */
	uint16_t peer_mss; /* from the peer's SYN, 536 when absent (RFC 9293 3.7.1); the data path lowers it
			      to the port's MTU and deducts timestamps */
	uint8_t snd_wscale, rcv_wscale; /* 0 when not negotiated */
	bool timestamps, sack;
	bool ecn;	   /* negotiated */
	bool accurate_ecn; /* echo marks as RFC 8257 3.2 */
	uint32_t ts_recent;
	uint32_t srtt_us; /* from the handshake, 0 for none */
	uint32_t rx_page, tx_page;
	uint8_t rx_shift, tx_shift;
};
/* [control] Fills in a connection's state before CTL_INSTALL. Timestamps we send are now_us / 1000. */
void datapath_conn_prepare(
	struct datapath *dp, uint32_t index, const struct conn_setup *setup, uint64_t now_us);

/* ---- exceptions (data path -> control plane) ---- */

enum exc_type {
	EXC_FRAME = 1,	    /* exc_frame: a frame for nobody in the flow table, checked up to its IP header's
			       length;      Ethernet padding cut off. TCP frames have had their TCP checksum and
			       header      length checked */
	EXC_CONN,	    /* exc_conn: events of a connection; never lost */
	EXC_HC,		    /* exc_hc: all descriptors but UPDATE; never lost */
	EXC_CONTEXT_BROKEN, /* exc_broken: the application broke the rules; never lost */
};

struct exc_frame {
	uint32_t type;
	uint16_t port;
	uint16_t flags; /* FRAME_CSUM_GOOD */
	uint32_t len;
	uint8_t bytes[]; /* from the Ethernet header on */
};
struct exc_conn {
	uint32_t type;
	uint32_t conn;	 /* index */
	uint32_t events; /* CONN_EVENT_* */
	uint32_t reserved;
};
struct exc_hc {
	uint32_t type;
	uint16_t app;
	uint16_t context;
	struct flextoe_hc hc; /* a private copy; its fields are not checked yet */
};
struct exc_broken {
	uint32_t type;
	uint16_t app;
	uint16_t context;
	char reason[56]; /* for the log */
};

/*
 * [control] The oldest exception and its length in bytes, or NULL. It stays valid until datapath_exc_done().
 */
const void *datapath_exc_peek(struct datapath *dp, uint32_t *len);
void datapath_exc_done(struct datapath *dp);

#endif
