/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The inside of libflextoe: an attachment to an engine, its contexts and connections. The native interface
 * (include/flextoe/flextoe.h) is implemented on these structs by attach.c, context.c and conn.c, and the
 * POSIX layer stands on both. A context and the connections homed on it belong to one thread at a time; the
 * POSIX layer makes that so with a lock per context. What several contexts share (the table of connections,
 * the pool, the control channel) is safe between threads by itself.
 */
#ifndef HOST_ATTACH_H
#define HOST_ATTACH_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/platform.h"
#include "flextoe/abi.h"
#include "flextoe/flextoe.h"

/* ---- attaching to an engine in the same process, without a control channel (benchmarks, simulator) ---- */

struct flextoe_memory {
	uint8_t *base;	    /* the application's region */
	uint64_t size;	    /* of the region in bytes */
	uint32_t conns_max; /* connection indices are below this */
	uint32_t contexts_max;
	uint32_t spin_us;
	uint8_t rx_shift, tx_shift; /* default buffers; 0: the engine's choice */
	/*
	 * Opens a context: its number, where its area lies in the region, the eventfd the application sleeps
	 * on and the one that wakes the engine (-1: there is none). 0 or a negative errno value.
	 */
	int (*context_open)(
		void *arg, uint32_t *number, uint64_t *area_offset, int *wake_fd, int *doorbell_fd);
	void *arg;
};

int flextoe_attach_memory(const struct flextoe_memory *memory, struct flextoe **out);

/* ---- the structs ---- */

/* Flags of a connection (struct flextoe_conn.flags). */
#define HOSTC_DIRTY	 0x0001u /* in its context's list of updates to post */
#define HOSTC_OPEN	 0x0002u /* has its handle and buffers */
#define HOSTC_FREEING	 0x0004u /* goes back to the pool once its last update is posted */
#define HOSTC_TX_WANTED	 0x0008u /* the transmit buffer was full: tell when a quarter of it is free */
#define HOSTC_SHUT	 0x0010u /* our direction is ended */
#define HOSTC_CONNECTING 0x0020u
#define HOSTC_NODELAY	 0x0040u /* what was last asked for */
#define HOSTC_CANCELLED	 0x0080u /* closed while connecting: abort it as soon as it has a handle */
#define HOSTC_MORE	 0x0100u /* the engine holds a segment back until told that no more comes */

/* One connection; what an event and an update need is in the first cache line. */
struct flextoe_conn {
	CACHE_ALIGNED uint32_t handle; /* its name at the boundary, or FLEXTOE_CONN_NONE */
	uint32_t rx_head;	       /* position: everything before it may be read */
	uint32_t rx_tail;	       /* position: everything before it is consumed */
	uint32_t rx_told;	       /* rx_tail as the engine was last told */
	uint32_t tx_head;	       /* position: end of what was written */
	uint32_t tx_tail;	       /* position: everything before it is acknowledged */
	uint16_t hc_flags;	       /* FLEXTOE_HC_* for the next update */
	uint16_t flags;		       /* HOSTC_* */
	uint16_t ntf_flags;	       /* FLEXTOE_NTF_*, sticky */
	uint8_t rx_shift, tx_shift;
	uint8_t *rx_buffer;
	uint8_t *tx_buffer;
	struct flextoe_context *ctx; /* home: where its notifications come; others may read it, atomically */
	void *opaque;

	/* second line */
	struct flextoe_listener
		*listener;	   /* it came in on, until the ACCEPT event; or the endpoint it binds */
	struct flextoe_conn *next; /* in the pool, or in a queue of the POSIX layer */
	uint32_t local_addr, remote_addr; /* network byte order */
	uint16_t local_port, remote_port;
	uint16_t error; /* errno value with FLEXTOE_NTF_ERROR */
	uint16_t reserved;
	uint32_t cookie;    /* while connecting */
	uint32_t rx_origin; /* position that lies at the receive buffer's start: see abi.h */
	uint32_t tx_origin;
};
_Static_assert(sizeof(struct flextoe_conn) == 128, "two cache lines");

enum listener_state {
	LISTENER_BINDING = 1,
	LISTENER_BOUND,
	LISTENER_LISTENING,
	LISTENER_FAILED,
	LISTENER_CLOSED, /* waits for an answer that is under way */
};

/* A bound endpoint; after listening on it, a listener. */
struct flextoe_listener {
	struct flextoe_context *ctx;
	void *opaque;
	uint32_t cookie;
	uint32_t endpoint; /* the engine's name for it; 0: none yet */
	uint32_t addr;	   /* network byte order */
	uint16_t port;
	uint16_t backlog;
	uint8_t state;	  /* enum listener_state */
	uint8_t answers;  /* owed by the engine */
	bool auto_listen; /* the native interface: listen as soon as it is bound */
	bool for_connect; /* belongs to a connection that is being opened */
	uint8_t rx_shift, tx_shift;
	uint32_t token[2]; /* once it listens: lets others join */
	uint32_t received; /* connections since it listens or has joined, modulo 2^32 */
	uint32_t limit;	   /* as many were asked for */
	struct flextoe_conn *connecting;
};

/* What a cookie of a context stands for. */
enum name_kind {
	NAME_FREE = 0,
	NAME_LISTENER,
	NAME_CONN,
};
struct name {
	void *object;
	uint16_t generation;
	uint8_t kind;
	uint32_t next; /* free list */
};

struct flextoe_context {
	struct flextoe *ft;
	struct flextoe_context_area *area;
	uint32_t ntf_tail; /* running count of notifications consumed */
	uint32_t hc_head;  /* running count of host control produced */
	uint32_t hc_seen;  /* hc_consumed as last looked at */
	uint32_t number;
	int wake_fd, doorbell_fd; /* -1: none */
	uint32_t dirty_count, dirty_size;
	struct flextoe_conn **dirty;
	uint32_t queue_count, queue_size; /* requests that found the ring full */
	struct flextoe_hc *queue;
	struct flextoe_conn *free;
	struct name *names;
	uint32_t names_size, names_free;
	uint32_t idle_polls;
	uint32_t looks;	     /* in vain, with the doorbell unrung */
	bool unrung;	     /* the engine sleeps on our core and has not been told of what we posted */
	uint32_t rung;	     /* engine_asleep when the doorbell was last rung */
	bool dead;	     /* nothing works any more */
	bool dead_told;	     /* the event is out */
	uint8_t carry_count; /* events that did not fit the caller's array */
	struct flextoe_event carry[4];
};

struct flextoe {
	uint8_t *base;
	uint64_t size;
	uint32_t conns_max, contexts_max;
	uint32_t spin_us;
	uint8_t rx_shift, tx_shift;
	bool mapped;	     /* base is our own mapping */
	int control_fd;	     /* -1: attached in memory */
	bool channel_shared; /* after fork(): the channel is the parent's to speak on */
	uint32_t context_offset;
	atomic_bool dead;
	pthread_mutex_t lock; /* the control channel, the pool and the list of slabs */
	struct flextoe_conn *pool;
	struct slab *slabs;
	_Atomic(struct flextoe_conn *) *table; /* by connection index */
	struct flextoe_msg_welcome welcome;
	struct flextoe_memory memory;
};

/* ---- attach.c ---- */

/* Asks the control channel about a connection; info->conn is set. 0 or a negative errno value. */
int attach_conn_info(struct flextoe *ft, struct flextoe_msg_conn_info *info);
/* Looks whether the engine has hung up; then the attachment is dead. */
bool attach_check_dead(struct flextoe *ft);
/* What the engine said last when it refused to let us in; "" when it said nothing. */
const char *attach_error_text(void);
/*
 * Opens a channel that keeps a listener alive (FLEXTOE_MSG_HOLD), or, over such a channel, one to attach with
 * for who may not connect to the engine. A descriptor or a negative errno value. ft may be NULL.
 */
int attach_hold(const struct flextoe *ft, uint32_t endpoint, const uint32_t token[2]);
int attach_enter(int hold_fd);
/* flextoe_open() over a channel that is open; takes it over. */
int attach_over(int channel_fd, const char *name, struct flextoe **out);
/* A batch of fresh connections for a context; NULL when out of memory. */
struct flextoe_conn *attach_conn_batch(struct flextoe *ft);
/* In the child after fork(): unmaps and closes what it inherited, tells nobody. ft must not be used any more.
 */
void attach_forget(struct flextoe *ft);

/* ---- context.c ---- */

/* Posts what is queued, as far as the ring has room, and rings the doorbell when the engine sleeps. */
void context_flush(struct flextoe_context *ctx);
/* True when a notification is waiting. Any thread may look; only its owner's look is sure. */
static inline bool context_pending(const struct flextoe_context *ctx)
{
	uint32_t tail = __atomic_load_n(&ctx->ntf_tail, __ATOMIC_RELAXED);
	const struct flextoe_ntf *slot = &ctx->area->ntf[tail & (FLEXTOE_NTF_SLOTS - 1)];

	return __atomic_load_n(&slot->mark, __ATOMIC_ACQUIRE) == flextoe_mark(tail, FLEXTOE_NTF_SLOTS);
}
/* Queues a request. 0 or -ENOMEM. */
int context_request(struct flextoe_context *ctx, const struct flextoe_hc *hc);
/* Puts a connection on the list of updates to post. */
void context_dirty_add(struct flextoe_context *ctx, struct flextoe_conn *conn);
static inline void conn_dirty(struct flextoe_conn *conn)
{
	if (!(conn->flags & HOSTC_DIRTY))
		context_dirty_add(conn->ctx, conn);
}
/* A new cookie for object, or 0. */
uint32_t context_name_add(struct flextoe_context *ctx, void *object, enum name_kind kind);
void *context_name_find(const struct flextoe_context *ctx, uint32_t cookie, enum name_kind kind);
void context_name_remove(struct flextoe_context *ctx, uint32_t cookie);
/* Nothing works any more on this context. */
bool context_is_dead(struct flextoe_context *ctx);

/* ---- conn.c ---- */

struct flextoe_conn *conn_alloc(struct flextoe_context *ctx);
void conn_free(struct flextoe_conn *conn);
/* Handles RESULT, ACCEPT and CONNECT notifications; returns the number of events made (at most 2). */
int conn_opened(struct flextoe_context *ctx, const struct flextoe_ntf *ntf, struct flextoe_event *event);
int listener_result(
	struct flextoe_context *ctx, const struct flextoe_ntf_result *result, struct flextoe_event *event);

/* Events beyond those of the native interface; auto_listen endpoints do not make them. */
#define HOST_EVENT_BOUND 100 /* the endpoint `listener` is bound (error 0) or was refused */

/* The POSIX layer's parts of flextoe_listen() and flextoe_connect(). */
int listener_bind(struct flextoe_context *ctx, const struct sockaddr_in *local, unsigned flags, void *opaque,
	struct flextoe_listener **out);
int listener_listen(struct flextoe_listener *listener, int backlog, uint8_t rx_shift, uint8_t tx_shift);
/* A listener that another process has; FLEXTOE_EVENT_LISTENING follows. */
int listener_join(struct flextoe_context *ctx, uint32_t endpoint, const uint32_t token[2], void *opaque,
	struct flextoe_listener **out);
/* It gets connections until there were `limit` of them. */
void listener_want(struct flextoe_listener *listener, uint32_t limit);
/* endpoint may be NULL; it stays the caller's to close once the connection is opened or has failed. */
int conn_connect(struct flextoe_context *ctx, struct flextoe_listener *endpoint,
	const struct sockaddr_in *remote, uint8_t rx_shift, uint8_t tx_shift, void *opaque,
	struct flextoe_conn **out);
/* accept() has returned it: one place less in use in the backlog. The native interface does so by itself. */
static inline void conn_accepted(struct flextoe_conn *conn)
{
	conn->hc_flags |= FLEXTOE_HC_ACCEPTED;
	conn_dirty(conn);
}
/* More bytes will follow at once, or no more: see FLEXTOE_HC_MORE. Goes out with the next update. */
void conn_more(struct flextoe_conn *conn, bool more);
/* TCP_QUICKACK. */
void conn_quickack(struct flextoe_conn *conn, bool on);
/* Drops a connection without telling the engine: another process has it. */
void conn_forget(struct flextoe_conn *conn);
/* Makes `to` the connection's home. The caller owns both contexts and has drained the old one. */
void conn_move(struct flextoe_conn *conn, struct flextoe_context *to);

static inline uint32_t conn_rx_bytes(const struct flextoe_conn *conn)
{
	return __atomic_load_n(&conn->rx_head, __ATOMIC_RELAXED) -
	       __atomic_load_n(&conn->rx_tail, __ATOMIC_RELAXED);
}
static inline uint32_t conn_tx_free(const struct flextoe_conn *conn)
{
	return (1u << conn->tx_shift) - (__atomic_load_n(&conn->tx_head, __ATOMIC_RELAXED) -
						__atomic_load_n(&conn->tx_tail, __ATOMIC_RELAXED));
}
/* Enough space to call the connection writable: a quarter of the buffer. */
static inline bool conn_writable(const struct flextoe_conn *conn)
{
	return conn_tx_free(conn) >= 1u << (conn->tx_shift - 2);
}

#endif
