/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The native interface of libflextoe: sockets without file descriptors and without copies.
 *
 * A process attaches to an engine once (struct flextoe), and opens a context for each thread that does I/O.
 * A context and what was opened on it belong to one thread at a time; nothing here takes a lock. Functions
 * return 0 or a count, or a negative errno value; none sets errno, none blocks but flextoe_wait().
 *
 *      struct flextoe *ft;
 *      struct flextoe_context *ctx;
 *      flextoe_open(NULL, "echo", &ft);
 *      flextoe_context_open(ft, &ctx);
 *      flextoe_listen(ctx, &address, 128, 0, &listener);
 *      for (;;) {
 *              n = flextoe_poll(ctx, events, 64);
 *              ...                                     (handle them)
 *              if (n == 0)
 *                      flextoe_wait(ctx, -1);
 *      }
 */
#ifndef FLEXTOE_FLEXTOE_H
#define FLEXTOE_FLEXTOE_H

#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

#pragma GCC visibility push(default)

#define FLEXTOE_SOCKET_DEFAULT "/run/flextoe.sock" /* or what the environment's FLEXTOE_SOCKET names */

struct flextoe;
struct flextoe_context;
struct flextoe_listener;
struct flextoe_conn;

/*
 * Attaches this process. path NULL: the environment's FLEXTOE_SOCKET, or the default. name is shown by
 * `flextoe ss`. Errors: -ENOENT or -ECONNREFUSED no engine there, -EPROTO another version, -ENOSPC the engine
 * is full, -ENOMEM.
 */
int flextoe_open(const char *path, const char *name, struct flextoe **out);
/* Detaches: connections that are still open are reset. Contexts must not be used any more. */
void flextoe_close(struct flextoe *ft);

/* Opens a context for the calling thread. Errors: -ENOSPC, -EIO when the engine is gone. */
int flextoe_context_open(struct flextoe *ft, struct flextoe_context **out);
void flextoe_context_close(struct flextoe_context *ctx);

enum flextoe_event_type {
	FLEXTOE_EVENT_ACCEPT = 1, /* `conn` came in on `listener` and is open */
	FLEXTOE_EVENT_OPEN,	  /* flextoe_connect() has succeeded */
	FLEXTOE_EVENT_READABLE,	  /* bytes came, or the peer's end of stream */
	FLEXTOE_EVENT_WRITABLE,	  /* space came free in the transmit buffer after it was full */
	FLEXTOE_EVENT_ERROR,	  /* broken: `error` is an errno value; close it */
	FLEXTOE_EVENT_LISTENING,  /* flextoe_listen() is done (error 0) or failed */
	FLEXTOE_EVENT_CLOSED,	  /* both directions have ended and all was acknowledged */
	FLEXTOE_EVENT_DEAD, /* the engine has gone or has put this context out: nothing works any more */
};

struct flextoe_event {
	enum flextoe_event_type type;
	int error;
	struct flextoe_listener *listener;
	struct flextoe_conn *conn;
	void *opaque; /* of conn, or else of listener */
};

/*
 * Several events of one flextoe_poll() may be for one connection. After a connection is closed, its later
 * ones in the same array are to be skipped: until the next flextoe_poll(), flextoe_conn_opaque() of it is
 * NULL.
 */

/* Collects up to max events; 0 when there is nothing new. Also flushes what the calls below have queued. */
int flextoe_poll(struct flextoe_context *ctx, struct flextoe_event *events, int max);
/* Sleeps until there may be an event, at most timeout_us (-1: for ever). 0, or -EINTR, -ETIMEDOUT. */
int flextoe_wait(struct flextoe_context *ctx, int64_t timeout_us);
/* A descriptor that becomes readable when an event comes, valid between arm (returns 1 when there is one
   already) and disarm; for joining a context to another event loop. */
int flextoe_context_fd(struct flextoe_context *ctx);
int flextoe_context_arm(struct flextoe_context *ctx);
void flextoe_context_disarm(struct flextoe_context *ctx);

/*
 * Listens on an address of the engine (INADDR_ANY: all of them; port 0: a free one). The answer comes as
 * FLEXTOE_EVENT_LISTENING. flags: FLEXTOE_REUSEPORT.
 */
#define FLEXTOE_REUSEPORT 0x2
int flextoe_listen(struct flextoe_context *ctx, const struct sockaddr_in *local, int backlog, int flags,
	void *opaque, struct flextoe_listener **out);
void flextoe_listener_close(struct flextoe_listener *listener);
void flextoe_listener_address(const struct flextoe_listener *listener, struct sockaddr_in *local);

/* Opens a connection; FLEXTOE_EVENT_OPEN or FLEXTOE_EVENT_ERROR follows. local may be NULL. */
int flextoe_connect(struct flextoe_context *ctx, const struct sockaddr_in *local,
	const struct sockaddr_in *remote, void *opaque, struct flextoe_conn **out);

void flextoe_conn_set_opaque(struct flextoe_conn *conn, void *opaque);
void *flextoe_conn_opaque(const struct flextoe_conn *conn);
void flextoe_conn_addresses(
	const struct flextoe_conn *conn, struct sockaddr_in *local, struct sockaddr_in *remote);

/*
 * The bytes that may be read now, in place: up to two pieces (the buffer is a ring). Returns their sum, 0
 * when there are none yet, -EPIPE at the end of the stream, or the connection's error.
 */
ssize_t flextoe_rx_window(struct flextoe_conn *conn, struct iovec iov[2]);
/* Gives the first `bytes` of the window back; beyond the window: -EINVAL. */
int flextoe_rx_done(struct flextoe_conn *conn, size_t bytes);

/* The space that may be written now, in place. Returns its size, 0 when the buffer is full, or an error. */
ssize_t flextoe_tx_window(struct flextoe_conn *conn, struct iovec iov[2]);
/* Sends the first `bytes` of the window. They must not be changed any more. Beyond the window: -EINVAL. */
int flextoe_tx_commit(struct flextoe_conn *conn, size_t bytes);

/* Ends our direction after what was committed. */
int flextoe_shutdown(struct flextoe_conn *conn);
/* Ends and frees: what was committed is still sent. */
void flextoe_conn_close(struct flextoe_conn *conn);
/* Resets and frees. */
void flextoe_conn_abort(struct flextoe_conn *conn);
/* on: send small segments at once (TCP_NODELAY); it is on to begin with. */
int flextoe_conn_nodelay(struct flextoe_conn *conn, int on);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif
#endif
