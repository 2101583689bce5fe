/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the stages of the data path share. Only files of src/datapath include it. pipeline.c composes the
 * stages; a stage knows the work items and its own part of struct datapath, and calls no other stage but
 * through the functions declared here under its file's name.
 */
#ifndef DATAPATH_STAGES_H
#define DATAPATH_STAGES_H

#include "core/flow_table.h"
#include "core/record_ring.h"
#include "core/seq.h"
#include "datapath/datapath.h"
#include "datapath/protocol.h"
#include "datapath/reassembly.h"

#define BATCH		32u  /* frames or descriptors a source gives in one go */
#define TOUCHED_MAX	512u /* connections a round can touch before they are finished early */
#define COPY_BATCH	128u
#define TX_QUANTUM	131072u /* payload bytes a connection may send per grant of the scheduler */
#define TX_FRAMES_ROUND 64u	/* frames of data a round sends at most */
#define CTL_ROUND	128u	/* control records a round handles at most */
#define KICKS_LATE_MAX	32u	/* rounds a kick is put off at most */
#define GATHER_MIN	1024u /* payload from here on is sent from the region in place, where the device can */
#define HOST_REMOVING	((uint16_t)0x0100u) /* CTL_REMOVE waits until the scheduler lets go */

#define TS_OPTION_ALIGNED 0x0a080101u /* NOP, NOP, timestamps, 10: as it lies in memory */

#define CTL_RING_BYTES (4u << 20)
#define EXC_RING_BYTES (4u << 20)
#define NTF_OVERFLOW   16384u /* notifications of the control plane a context may owe */

struct port {
	struct device *dev;
	uint8_t mac[6];
	uint64_t mac_match; /* the address as the upper six bytes of a frame's first eight, shifted */
	uint64_t mac_type;  /* the address and IPv4's type: bytes 6 to 13 of a frame that leaves */
	uint32_t caps;
	uint32_t mtu;
	uint32_t tso_bytes; /* 0: none */
	/* frames on their way: [tx_first, tx_built) are built, [tx_built, tx_ready) reserved and empty */
	struct frame tx[2 * BATCH];
	struct frame *tx_first, *tx_built, *tx_ready;
	bool tx_dirty; /* the device was given frames since its last flush */
};

struct context {
	struct flextoe_context_area *area; /* NULL: free */
	uint16_t app;
	bool dead;	       /* broke the rules: nothing is read from or written to it any more */
	uint32_t credit;       /* notifications that may be put on the ring without asking anything; 0 while
				  something waits, or the context is dead or closed */
	bool wrote;	       /* this round put something on its ring */
	bool kicked;	       /* woken since the engine last went to sleep */
	uint32_t app_cpu;      /* 1 + the core its application slept on when it was woken last; 0: not yet */
	const char *broken;    /* why it is dead, until the control plane has been told; else NULL */
	uint32_t hc_pos;       /* next slot to read */
	uint32_t ntf_pos;      /* next slot to write */
	uint32_t ntf_consumed; /* as last read */
	uint32_t pending_head, pending_tail; /* connections that owe a notification */
	struct flextoe_ntf *overflow; /* ring of NTF_OVERFLOW control notifications that found no slot */
	uint32_t overflow_head, overflow_tail;
};

struct region {
	uint8_t *base;
	uint64_t size;
};

struct datapath {
	/* look-up and connections */
	struct flow_table flows;
	struct conn *conns;
	uint32_t conns_max;
	uint32_t *marked; /* by connection: bytes acknowledged with an echo of a congestion mark */
	struct ooo_pool ooo;
	/* ports and copies */
	unsigned port_count;
	struct port ports[DATAPATH_PORTS_MAX];
	struct copy_engine *copy;
	struct copy_op copies[COPY_BATCH];
	unsigned copy_count;
	bool copy_direct; /* the engine is a memcpy of this core's */
	struct region *regions;
	uint32_t apps_max;
	/* contexts */
	struct context *contexts;
	uint32_t contexts_max;
	uint16_t *active; /* contexts that are open, dense */
	uint32_t active_count;
	void (*kick)(void *arg, uint32_t context);
	void *kick_arg;
	/* this round */
	uint32_t now_us;
	uint64_t ts_option; /* first eight bytes of the timestamps option of what leaves now */
	uint32_t touched[TOUCHED_MAX];
	unsigned touched_count;
	bool kicks;
	unsigned kicks_late; /* rounds that kicks have been put off */
	uint32_t cpu;	     /* 1 + the core of this thread; 0: not known */
	uint32_t sleeps;     /* number of this sleep, never 0 */
	uint32_t looks;	     /* sleeps since there was work last that were kept short for an application */
	/* transmit scheduler: connections that may have something to send, in turn */
	uint32_t *sched; /* ring with a place for every connection, each in it once at most */
	uint32_t sched_mask;
	uint32_t sched_head, sched_tail; /* running counts */
	/* connections with events for the control plane */
	uint32_t event_head, event_tail;
	uint32_t broken_count; /* contexts whose end the control plane has not been told yet */
	struct record_ring ctl, exc;
	uint64_t counters[COUNTERS];
};

static inline void count(struct datapath *dp, enum counter c)
{
	dp->counters[c]++;
}
static inline void count_add(struct datapath *dp, enum counter c, uint64_t n)
{
	dp->counters[c] += n;
}

/* Remembers that a connection is to be finished at the end of the round: ACK, notification, timers. */
void pipeline_touch(struct datapath *dp, uint32_t index);

/* ---- pre ---- */

/*
 * A segment on its way from pre to protocol. Of a usual frame only what costs to find again is noted: its
 * header fields lie at fixed places and are read by pre_segment() where they are used.
 */
struct rx_item {
	struct frame *frame;
	const struct flow_entry *bucket; /* where the look-up begins */
	uint32_t hash;
	uint32_t conn; /* the likely one, or CONN_NONE */
	uint32_t len;  /* payload bytes */
	bool usual;
	/* of a frame that is not usual: */
	uint32_t ip_bytes; /* Ethernet header and IP packet, without padding */
	const uint8_t *tcp;
	const uint8_t *payload;
	struct segment seg;
	struct sack_list sack; /* seg.sack, when it has any */
};
#define USUAL_TCP     34u /* where the TCP header of a usual frame begins */
#define USUAL_PAYLOAD 66u

enum pre_result { PRE_SEGMENT, PRE_EXCEPTION, PRE_DROP };
/* Checks and parses a frame. PRE_DROP has been counted. */
enum pre_result pre_parse(
	struct datapath *dp, const struct port *port, struct frame *frame, struct rx_item *item);
/* The segment in a usual frame. */
struct segment pre_segment(const struct rx_item *item);

/* Addresses and ports of an IPv4 packet behind an Ethernet header, tcp pointing to the ports. */
static inline struct flow_key pre_key(const uint8_t *frame, const uint8_t *tcp)
{
	struct flow_key key;

	memcpy(&key.addrs, frame + 26, 8);
	memcpy(&key.ports, tcp, 4);
	return key;
}

/* The ECN bits a segment came with. */
static inline uint8_t pre_ecn(const struct rx_item *item)
{
	return ((const struct ipv4_hdr *)(item->frame->data + sizeof(struct eth_hdr)))->tos & 3u;
}

/* ---- post: headers ---- */

/* Lays Ethernet, IP and TCP headers for a plan at frame->data; the payload of plan->len bytes follows in the
   frame or in fragments. Returns the header bytes. The checksum is complete when the payload is
   (post_checksum). */
uint32_t post_headers(const struct datapath *dp, const struct port *port, const struct conn *c,
	const struct tx_plan *plan, struct frame *frame);
/* Adds what lies beyond the next byte expected to a segment without payload (RFC 2018). */
void post_sack(struct datapath *dp, const struct conn *c, struct frame *frame);
/* Completes the TCP checksum of a frame for a device that does not. */
void post_checksum(struct frame *frame);

/* ---- post: ECN; for connections with TCPF_ECN ---- */

/* Before the protocol has a segment, which came with these ECN bits. True: marks are echoed exactly, and
   begin or end with this segment: what came before is to be acknowledged first (then flip HOST_ECE). */
bool ecn_arrives(struct datapath *dp, struct conn *c, const struct segment *s, uint8_t ecn);
/* After it: what the peer says of our segments. */
void ecn_echo(struct datapath *dp, struct conn *c, uint32_t index, const struct segment *s,
	const struct verdict *v);
/* Completes the headers of what goes out. */
void ecn_sends(struct conn *c, const struct tx_plan *plan, struct frame *frame);

/* ---- dma ---- */

/* Queues the copy of received payload to its place. */
void dma_receive(
	struct datapath *dp, const struct conn *c, const uint8_t *payload, uint32_t seq, uint32_t len);
/* Queues the copy of payload to send behind the headers, or refers to it in place. */
void dma_transmit(struct datapath *dp, const struct port *port, const struct conn *c,
	const struct tx_plan *plan, struct frame *frame);
/* All queued copies are done when it returns. */
void dma_flush(struct datapath *dp);

/* ---- notify ---- */

/* Tells the application a connection's positions if they are worth it; keeps it for later when the ring is
 * full. */
void notify_conn(struct datapath *dp, struct conn *c, uint32_t index);
/* Free transmit space alone is told when the application may be short of it, in steps of an eighth. True: not
 * now. tail: position up to which bytes are acknowledged. */
static inline bool notify_space_told(const struct conn *c, uint32_t tail)
{
	uint32_t end = c->tcp.tx_end - c->tcp.tx_base, size = 1u << c->host.tx_shift;

	return end - c->host.tx_notified <= size / 2u || tail - c->host.tx_notified < size / 8u;
}
/* The same of a connection at ease that owes nothing. */
void notify_usual(struct datapath *dp, struct conn *c, uint32_t index);
/* Puts a control-plane notification on a context's ring, behind those that wait. False: the context is
 * broken. */
bool notify_control(struct datapath *dp, uint32_t context, const struct flextoe_ntf *ntf);
/* Sends what waits for a place in a context's ring. */
void notify_pending(struct datapath *dp, struct context *ctx);
/* A connection leaves its context's list; rare, walks the list. */
void notify_forget(struct datapath *dp, struct conn *c, uint32_t index);
/* Wakes the sleepers of the contexts written to; those that went to sleep on our own core only when idle. */
void notify_kick(struct datapath *dp, bool idle);

/* ---- wire ---- */

/* An empty frame of the port to build in, or NULL when the device is full. */
struct frame *wire_refill(struct datapath *dp, struct port *port);
static inline struct frame *wire_reserve(struct datapath *dp, struct port *port)
{
	return likely(port->tx_built != port->tx_ready) ? port->tx_built : wire_refill(dp, port);
}
/* The reserved frame is built; bytes: all of it, with its fragments. */
static inline void wire_commit(struct datapath *dp, struct port *port, uint32_t bytes)
{
	port->tx_built++;
	count_add(dp, CNT_tx_bytes, bytes);
}
/* Gives what was built to the devices. */
void wire_push(struct datapath *dp, struct port *port);
void wire_flush(struct datapath *dp);

/* ---- scheduler ---- */

void scheduler_add(struct datapath *dp, struct conn *c, uint32_t index);
uint32_t scheduler_next(struct datapath *dp); /* not when empty */
static inline uint32_t scheduler_count(const struct datapath *dp)
{
	return dp->sched_tail - dp->sched_head;
}

/* ---- host control and control work ---- */

unsigned host_poll(struct datapath *dp);
bool host_work(struct datapath *dp); /* a ring holds a descriptor */
/* Ends a context whose application broke the rules; reason is a literal. */
void host_break(struct datapath *dp, uint32_t context, const char *reason);
unsigned ctl_poll(struct datapath *dp);
/* Notes events for the control plane; ctl_events() hands on what its ring takes, and broken contexts. */
void ctl_event(struct datapath *dp, struct conn *c, uint32_t index, uint16_t events);
/* Tells what is due to be told of congestion. */
void ctl_congestion(struct datapath *dp, struct conn *c, uint32_t index);
void ctl_events(struct datapath *dp);
/* A record of the ring up for a request of an application; NULL: leave it where it is. */
struct exc_hc *ctl_request(struct datapath *dp);
/* Hands a frame to the control plane, or counts it as lost. */
void ctl_exception(struct datapath *dp, const struct port *port, const struct frame *frame, uint32_t len);

/* ---- pipeline ---- */

/* Runs received frames of one port through the stages. */
void pipeline_rx(struct datapath *dp, struct port *port, struct frame *frames, unsigned n);
/* CTL_REMOVE, last step: nothing refers to the connection any more. */
void ctl_removed(struct datapath *dp, struct conn *c, uint32_t index);

/* The protocol has ended for this connection: out of the flow table, and the control plane hears of it. */
void pipeline_ended(struct datapath *dp, struct conn *c, uint32_t index);

#endif
