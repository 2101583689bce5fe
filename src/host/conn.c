/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Endpoints, listeners and connections as the native interface has them: opening, windows into the buffers,
 * closing. Called by the thread that owns the context. Nothing here waits: requests go into the ring and the
 * answers come as events. After close or abort the engine alone has the connection; nothing comes any more.
 */
#include "host/attach.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct flextoe_conn *conn_alloc(struct flextoe_context *ctx)
{
	struct flextoe_conn *conn = ctx->free;

	if (!conn) {
		conn = attach_conn_batch(ctx->ft);
		if (!conn)
			return NULL;
	}
	ctx->free = conn->next;
	memset(conn, 0, sizeof(*conn));
	conn->handle = FLEXTOE_CONN_NONE;
	__atomic_store_n(&conn->ctx, ctx, __ATOMIC_RELEASE);
	return conn;
}

/* Connections are never unmapped while attached: a late reader on another thread sees a wrong handle. */
void conn_free(struct flextoe_conn *conn)
{
	struct flextoe_context *ctx = conn->ctx;

	conn->handle = FLEXTOE_CONN_NONE;
	conn->flags = 0;
	conn->next = ctx->free;
	ctx->free = conn;
}

/* From now on the engine's notifications find nobody. */
static void conn_unlink(struct flextoe_conn *conn)
{
	struct flextoe *ft = conn->ctx->ft;
	struct flextoe_conn *expected = conn;

	if (conn->flags & HOSTC_OPEN)
		atomic_compare_exchange_strong(&ft->table[flextoe_conn_index(conn->handle)], &expected, NULL);
}

/* ---- endpoints and listeners ---- */

static int listener_request(
	struct flextoe_listener *listener, uint8_t type, uint32_t addr, uint16_t port, unsigned flags)
{
	struct flextoe_hc hc = {.endpoint = {
					.cookie = listener->cookie,
					.endpoint = listener->endpoint,
					.local_addr = addr,
					.local_port = port,
					.backlog = listener->backlog,
					.flags = (uint16_t)flags,
					.rx_shift = listener->rx_shift,
					.tx_shift = listener->tx_shift,
					.type = type,
				}};
	int rc = context_request(listener->ctx, &hc);

	if (rc == 0)
		listener->answers++;
	return rc;
}

int listener_bind(struct flextoe_context *ctx, const struct sockaddr_in *local, unsigned flags, void *opaque,
	struct flextoe_listener **out)
{
	struct flextoe_listener *listener;
	int rc;

	if (context_is_dead(ctx))
		return -EIO;
	listener = calloc(1, sizeof(*listener));
	if (!listener)
		return -ENOMEM;
	listener->ctx = ctx;
	listener->opaque = opaque;
	listener->state = LISTENER_BINDING;
	listener->addr = local->sin_addr.s_addr;
	listener->port = local->sin_port;
	listener->cookie = context_name_add(ctx, listener, NAME_LISTENER);
	if (!listener->cookie) {
		free(listener);
		return -ENOMEM;
	}
	rc = listener_request(listener, FLEXTOE_HC_BIND, listener->addr, listener->port, flags);
	if (rc < 0) {
		context_name_remove(ctx, listener->cookie);
		free(listener);
		return rc;
	}
	*out = listener;
	return 0;
}

int listener_listen(struct flextoe_listener *listener, int backlog, uint8_t rx_shift, uint8_t tx_shift)
{
	if (context_is_dead(listener->ctx))
		return -EIO;
	listener->backlog = (uint16_t)(backlog < 0 ? 0 : backlog > 65535 ? 65535 : backlog);
	listener->rx_shift = rx_shift;
	listener->tx_shift = tx_shift;
	return listener_request(listener, FLEXTOE_HC_LISTEN, 0, 0, FLEXTOE_LISTEN_WANTED);
}

int listener_join(struct flextoe_context *ctx, uint32_t endpoint, const uint32_t token[2], void *opaque,
	struct flextoe_listener **out)
{
	struct flextoe_hc hc = {
		.join = {.endpoint = endpoint, .token = {token[0], token[1]}, .type = FLEXTOE_HC_JOIN}};
	struct flextoe_listener *listener;
	int rc = -ENOMEM;

	if (context_is_dead(ctx))
		return -EIO;
	listener = calloc(1, sizeof(*listener));
	if (!listener)
		return -ENOMEM;
	listener->ctx = ctx;
	listener->opaque = opaque;
	listener->state = LISTENER_BOUND;
	hc.join.cookie = listener->cookie = context_name_add(ctx, listener, NAME_LISTENER);
	if (listener->cookie)
		rc = context_request(ctx, &hc);
	if (rc < 0) {
		if (listener->cookie)
			context_name_remove(ctx, listener->cookie);
		free(listener);
		return rc;
	}
	listener->answers++;
	*out = listener;
	return 0;
}

void listener_want(struct flextoe_listener *listener, uint32_t limit)
{
	struct flextoe_hc hc = {
		.want = {.endpoint = listener->endpoint, .limit = limit, .type = FLEXTOE_HC_WANT}};

	if (context_request(listener->ctx, &hc) == 0)
		listener->limit = limit;
}

int flextoe_listen(struct flextoe_context *ctx, const struct sockaddr_in *local, int backlog, int flags,
	void *opaque, struct flextoe_listener **out)
{
	unsigned bind_flags = FLEXTOE_BIND_REUSEADDR;
	struct flextoe_listener *listener;
	int rc;

	if (flags & ~FLEXTOE_REUSEPORT)
		return -EINVAL;
	if (flags & FLEXTOE_REUSEPORT)
		bind_flags |= FLEXTOE_BIND_REUSEPORT;
	rc = listener_bind(ctx, local, bind_flags, opaque, &listener);
	if (rc < 0)
		return rc;
	listener->auto_listen = true;
	listener->backlog = (uint16_t)(backlog < 1 ? 1 : backlog > 65535 ? 65535 : backlog);
	*out = listener;
	return 0;
}

/* Frees it once no answer can name it any more. */
static void listener_release(struct flextoe_listener *listener)
{
	if (listener->answers)
		return;
	context_name_remove(listener->ctx, listener->cookie);
	free(listener);
}

void flextoe_listener_close(struct flextoe_listener *listener)
{
	if (listener->endpoint)
		listener_request(listener, FLEXTOE_HC_UNBIND, 0, 0, 0);
	listener->state = LISTENER_CLOSED;
	listener->opaque = NULL;
	listener_release(listener);
}

void flextoe_listener_address(const struct flextoe_listener *listener, struct sockaddr_in *local)
{
	*local = (struct sockaddr_in){
		.sin_family = AF_INET, .sin_port = listener->port, .sin_addr.s_addr = listener->addr};
}

static int connect_request(struct flextoe_conn *conn, uint32_t endpoint)
{
	struct flextoe_hc hc = {.endpoint = {
					.cookie = conn->cookie,
					.endpoint = endpoint,
					.remote_addr = conn->remote_addr,
					.remote_port = conn->remote_port,
					.rx_shift = conn->rx_shift,
					.tx_shift = conn->tx_shift,
					.type = FLEXTOE_HC_CONNECT,
				}};

	return context_request(conn->ctx, &hc);
}

/* A connection that was being opened has failed; the event says so, the owner closes it. */
static int connect_failed(struct flextoe_conn *conn, int error, struct flextoe_event *event)
{
	if (conn->cookie)
		context_name_remove(conn->ctx, conn->cookie);
	conn->cookie = 0;
	conn->flags &= (uint16_t)~HOSTC_CONNECTING;
	if (conn->flags & HOSTC_CANCELLED) {
		conn_free(conn);
		return 0;
	}
	conn->error = (uint16_t)error;
	__atomic_store_n(&conn->ntf_flags, FLEXTOE_NTF_ERROR, __ATOMIC_RELEASE);
	*event = (struct flextoe_event){
		.type = FLEXTOE_EVENT_ERROR, .error = error, .conn = conn, .opaque = conn->opaque};
	return 1;
}

/* The endpoint of a connection that is being opened from a given address. */
static int endpoint_bound(struct flextoe_listener *listener, int error, struct flextoe_event *event)
{
	struct flextoe_conn *conn = listener->connecting;

	conn->listener = NULL;
	if (!error && !(conn->flags & HOSTC_CANCELLED)) {
		conn->listener = listener;
		error = -connect_request(conn, listener->endpoint);
		if (!error)
			return 0;
	}
	flextoe_listener_close(listener);
	return connect_failed(conn, error, event);
}

int listener_result(
	struct flextoe_context *ctx, const struct flextoe_ntf_result *result, struct flextoe_event *event)
{
	struct flextoe_listener *listener;
	enum flextoe_event_type type;

	if (result->request == FLEXTOE_HC_CONNECT) {
		struct flextoe_conn *conn = context_name_find(ctx, result->cookie, NAME_CONN);

		if (!conn)
			return 0;
		if (conn->listener) {
			flextoe_listener_close(conn->listener);
			conn->listener = NULL;
		}
		return connect_failed(conn, result->error ? result->error : ECONNREFUSED, event);
	}
	listener = context_name_find(ctx, result->cookie, NAME_LISTENER);
	if (!listener)
		return 0;
	if (listener->answers)
		listener->answers--;
	if ((result->request == FLEXTOE_HC_BIND || result->request == FLEXTOE_HC_JOIN) && !result->error) {
		listener->endpoint = result->endpoint;
		listener->addr = result->local_addr;
		listener->port = result->local_port;
	}
	if (result->request == FLEXTOE_HC_LISTEN && !result->error)
		memcpy(listener->token, result->token, sizeof(listener->token));
	if (listener->state == LISTENER_CLOSED) { /* closed while the answer was under way */
		if ((result->request == FLEXTOE_HC_BIND || result->request == FLEXTOE_HC_JOIN) &&
			!result->error)
			listener_request(listener, FLEXTOE_HC_UNBIND, 0, 0, 0);
		listener_release(listener);
		return 0;
	}
	if (result->request == FLEXTOE_HC_UNBIND)
		return 0;
	if (result->error)
		listener->state = result->request == FLEXTOE_HC_BIND ? LISTENER_FAILED : listener->state;
	else
		listener->state = result->request == FLEXTOE_HC_BIND ? LISTENER_BOUND : LISTENER_LISTENING;
	if (listener->for_connect)
		return endpoint_bound(listener, result->error, event);
	type = FLEXTOE_EVENT_LISTENING;
	if (result->request == FLEXTOE_HC_BIND) {
		if (listener->auto_listen && !result->error)
			return listener_request(listener, FLEXTOE_HC_LISTEN, 0, 0, 0) < 0 ? 0 : 0;
		if (!listener->auto_listen)
			type = (enum flextoe_event_type)HOST_EVENT_BOUND;
	}
	*event = (struct flextoe_event){
		.type = type, .error = result->error, .listener = listener, .opaque = listener->opaque};
	return 1;
}

/* ---- connections: opening ---- */

int conn_connect(struct flextoe_context *ctx, struct flextoe_listener *endpoint,
	const struct sockaddr_in *remote, uint8_t rx_shift, uint8_t tx_shift, void *opaque,
	struct flextoe_conn **out)
{
	struct flextoe_conn *conn;
	int rc = 0;

	if (context_is_dead(ctx))
		return -EIO;
	conn = conn_alloc(ctx);
	if (!conn)
		return -ENOMEM;
	conn->opaque = opaque;
	conn->remote_addr = remote->sin_addr.s_addr;
	conn->remote_port = remote->sin_port;
	conn->rx_shift = rx_shift;
	conn->tx_shift = tx_shift;
	conn->flags = HOSTC_CONNECTING | HOSTC_NODELAY;
	conn->cookie = context_name_add(ctx, conn, NAME_CONN);
	if (!conn->cookie) {
		conn_free(conn);
		return -ENOMEM;
	}
	/* With for_connect the request follows when the endpoint is bound. */
	if (!endpoint || !endpoint->for_connect)
		rc = connect_request(conn, endpoint ? endpoint->endpoint : 0);
	if (rc < 0) {
		context_name_remove(ctx, conn->cookie);
		conn_free(conn);
		return rc;
	}
	*out = conn;
	return 0;
}

int flextoe_connect(struct flextoe_context *ctx, const struct sockaddr_in *local,
	const struct sockaddr_in *remote, void *opaque, struct flextoe_conn **out)
{
	struct flextoe_listener *endpoint = NULL;
	int rc;

	if (local) {
		rc = listener_bind(ctx, local, FLEXTOE_BIND_REUSEADDR, NULL, &endpoint);
		if (rc < 0)
			return rc;
		endpoint->for_connect = true;
	}
	rc = conn_connect(ctx, endpoint, remote, 0, 0, opaque, out);
	if (endpoint) {
		if (rc == 0) {
			endpoint->connecting = *out;
			(*out)->listener = endpoint;
		} else {
			flextoe_listener_close(endpoint);
		}
	}
	return rc;
}

/* A connection nobody here can take: reset it. */
static void handle_abort(struct flextoe_context *ctx, uint32_t handle)
{
	struct flextoe_hc hc = {
		.update = {.conn = handle, .flags = FLEXTOE_HC_ABORT, .type = FLEXTOE_HC_UPDATE}};

	context_request(ctx, &hc);
}

static bool buffer_fits(const struct flextoe *ft, uint32_t page, uint8_t shift)
{
	return shift >= 12 && shift <= 30 && ((uint64_t)page << 12) + (1ull << shift) <= ft->size;
}

int conn_opened(struct flextoe_context *ctx, const struct flextoe_ntf *ntf, struct flextoe_event *event)
{
	const struct flextoe_ntf_opened *opened = &ntf->opened;
	uint32_t index = flextoe_conn_index(opened->conn);
	bool accepted = ntf->type == FLEXTOE_NTF_ACCEPT;
	struct flextoe_listener *listener = NULL;
	struct flextoe_conn *conn = NULL;

	if (accepted) {
		listener = context_name_find(ctx, opened->cookie, NAME_LISTENER);
		if (listener && listener->state != LISTENER_CLOSED)
			conn = conn_alloc(ctx);
	} else {
		conn = context_name_find(ctx, opened->cookie, NAME_CONN);
	}
	if (!conn || index >= ctx->ft->conns_max ||
		!buffer_fits(ctx->ft, opened->rx_page, opened->rx_shift) ||
		!buffer_fits(ctx->ft, opened->tx_page, opened->tx_shift)) {
		handle_abort(ctx, opened->conn);
		return conn ? connect_failed(conn, ECONNABORTED, event) : 0;
	}
	if (conn->cookie)
		context_name_remove(ctx, conn->cookie);
	conn->cookie = 0;
	conn->flags = (uint16_t)((conn->flags & ~HOSTC_CONNECTING) | HOSTC_OPEN);
	conn->local_addr = opened->local_addr;
	conn->remote_addr = opened->remote_addr;
	conn->local_port = opened->local_port;
	conn->remote_port = opened->remote_port;
	conn->rx_shift = opened->rx_shift;
	conn->tx_shift = opened->tx_shift;
	conn->rx_buffer = ctx->ft->base + ((uint64_t)opened->rx_page << 12);
	conn->tx_buffer = ctx->ft->base + ((uint64_t)opened->tx_page << 12);
	conn->rx_origin = conn->tx_origin = 0;
	conn->handle = opened->conn;
	if (!accepted && conn->listener) { /* the connection has the port now */
		flextoe_listener_close(conn->listener);
		conn->listener = NULL;
	}
	if (conn->flags & HOSTC_CANCELLED) {
		conn->hc_flags = FLEXTOE_HC_ABORT;
		conn->flags |= HOSTC_FREEING;
		conn_dirty(conn);
		return 0;
	}
	atomic_store_explicit(&ctx->ft->table[index], conn, memory_order_release);
	if (conn->hc_flags)
		conn_dirty(conn);
	*event = (struct flextoe_event){.type = FLEXTOE_EVENT_OPEN, .conn = conn, .opaque = conn->opaque};
	if (accepted) {
		conn->flags |= HOSTC_NODELAY;
		event->type = FLEXTOE_EVENT_ACCEPT;
		listener->received++;
		event->listener = listener;
		event->opaque = listener->opaque;
		if (listener->auto_listen)
			conn_accepted(conn);
	}
	return 1;
}

void conn_move(struct flextoe_conn *conn, struct flextoe_context *to)
{
	struct flextoe_context *from = conn->ctx;

	if (from == to)
		return;
	if (conn->flags & HOSTC_DIRTY) {
		for (uint32_t i = 0; i < from->dirty_count; i++) {
			if (from->dirty[i] != conn)
				continue;
			from->dirty[i] = from->dirty[--from->dirty_count];
			break;
		}
		conn->flags &= (uint16_t)~HOSTC_DIRTY;
	}
	__atomic_store_n(&conn->ctx, to, __ATOMIC_RELEASE);
	conn->hc_flags |= FLEXTOE_HC_NOTIFY_HERE;
	conn_dirty(conn);
}

/* ---- connections: use ---- */

void flextoe_conn_set_opaque(struct flextoe_conn *conn, void *opaque)
{
	conn->opaque = opaque;
}

void *flextoe_conn_opaque(const struct flextoe_conn *conn)
{
	return conn->opaque;
}

void flextoe_conn_addresses(
	const struct flextoe_conn *conn, struct sockaddr_in *local, struct sockaddr_in *remote)
{
	if (local)
		*local = (struct sockaddr_in){.sin_family = AF_INET,
			.sin_port = conn->local_port,
			.sin_addr.s_addr = conn->local_addr};
	if (remote)
		*remote = (struct sockaddr_in){.sin_family = AF_INET,
			.sin_port = conn->remote_port,
			.sin_addr.s_addr = conn->remote_addr};
}

/* `bytes` of the ring of 2^shift bytes, from a position on, as one or two pieces. */
static void window_fill(
	uint8_t *buffer, uint8_t shift, uint32_t distance, uint32_t bytes, struct iovec iov[2])
{
	uint32_t size = 1u << shift, at = distance & (size - 1);
	uint32_t first = bytes < size - at ? bytes : size - at;

	iov[0] = (struct iovec){.iov_base = buffer + at, .iov_len = first};
	iov[1] = (struct iovec){.iov_base = buffer, .iov_len = bytes - first};
}

ssize_t flextoe_rx_window(struct flextoe_conn *conn, struct iovec iov[2])
{
	uint32_t bytes = conn->rx_head - conn->rx_tail;

	if (likely(bytes)) { /* what came before the end or an error is still good */
		window_fill(conn->rx_buffer, conn->rx_shift, conn->rx_tail - conn->rx_origin, bytes, iov);
		return (ssize_t)bytes;
	}
	if (conn->ntf_flags & FLEXTOE_NTF_FIN)
		return -EPIPE;
	if (conn->ntf_flags & FLEXTOE_NTF_ERROR)
		return -conn->error;
	if (unlikely(!(conn->flags & HOSTC_OPEN)))
		return -ENOTCONN;
	return conn->ctx->dead ? -EIO : 0;
}

int flextoe_rx_done(struct flextoe_conn *conn, size_t bytes)
{
	if (bytes > conn->rx_head - conn->rx_tail)
		return -EINVAL;
	__atomic_store_n(&conn->rx_tail, conn->rx_tail + (uint32_t)bytes, __ATOMIC_RELAXED);
	conn_dirty(conn);
	return 0;
}

ssize_t flextoe_tx_window(struct flextoe_conn *conn, struct iovec iov[2])
{
	uint32_t bytes;

	if (unlikely(!(conn->flags & HOSTC_OPEN)))
		return conn->ntf_flags & FLEXTOE_NTF_ERROR ? -conn->error : -ENOTCONN;
	if (unlikely(conn->ntf_flags & FLEXTOE_NTF_ERROR))
		return -conn->error;
	if (unlikely(conn->flags & HOSTC_SHUT))
		return -EPIPE;
	if (unlikely(conn->ctx->dead))
		return -EIO;
	bytes = (1u << conn->tx_shift) - (conn->tx_head - conn->tx_tail);
	if (unlikely(!bytes)) {
		conn->flags |= HOSTC_TX_WANTED;
		return 0;
	}
	if (conn->tx_head == conn->tx_tail)
		conn->tx_origin = conn->tx_head; /* all is acknowledged: start over where the cache is warm */
	window_fill(conn->tx_buffer, conn->tx_shift, conn->tx_head - conn->tx_origin, bytes, iov);
	return (ssize_t)bytes;
}

int flextoe_tx_commit(struct flextoe_conn *conn, size_t bytes)
{
	if (unlikely(!(conn->flags & HOSTC_OPEN) || (conn->flags & HOSTC_SHUT)))
		return -EPIPE;
	if (bytes > (1u << conn->tx_shift) - (conn->tx_head - conn->tx_tail))
		return -EINVAL;
	__atomic_store_n(&conn->tx_head, conn->tx_head + (uint32_t)bytes, __ATOMIC_RELAXED);
	conn_dirty(conn);
	return 0;
}

/* ---- connections: ending ---- */

int flextoe_shutdown(struct flextoe_conn *conn)
{
	if (!(conn->flags & HOSTC_OPEN))
		return -ENOTCONN;
	if (conn->flags & HOSTC_SHUT)
		return 0;
	conn->flags |= HOSTC_SHUT;
	conn->hc_flags |= FLEXTOE_HC_FIN;
	conn_dirty(conn);
	return 0;
}

static void conn_end(struct flextoe_conn *conn, uint16_t hc_flags)
{
	conn->opaque = NULL;
	if (conn->flags & HOSTC_CONNECTING) { /* the answer will find it cancelled */
		conn->flags |= HOSTC_CANCELLED;
		return;
	}
	if (!(conn->flags & HOSTC_OPEN)) {
		conn_free(conn);
		return;
	}
	conn_unlink(conn);
	conn->hc_flags |= hc_flags;
	conn->flags |= HOSTC_FREEING;
	conn_dirty(conn);
}

void conn_forget(struct flextoe_conn *conn)
{
	struct flextoe_context *ctx = conn->ctx;

	for (uint32_t i = 0; (conn->flags & HOSTC_DIRTY) && i < ctx->dirty_count; i++)
		if (ctx->dirty[i] == conn) {
			ctx->dirty[i] = ctx->dirty[--ctx->dirty_count];
			conn->flags &= (uint16_t)~HOSTC_DIRTY;
		}
	conn_unlink(conn);
	conn->opaque = NULL;
	conn_free(conn);
}

void flextoe_conn_close(struct flextoe_conn *conn)
{
	conn_end(conn, FLEXTOE_HC_CLOSE);
}

void flextoe_conn_abort(struct flextoe_conn *conn)
{
	conn_end(conn, FLEXTOE_HC_ABORT);
}

int flextoe_conn_nodelay(struct flextoe_conn *conn, int on)
{
	conn->hc_flags &= (uint16_t) ~(FLEXTOE_HC_NAGLE | FLEXTOE_HC_NODELAY);
	conn->hc_flags |= on ? FLEXTOE_HC_NODELAY : FLEXTOE_HC_NAGLE;
	conn->flags = (uint16_t)(on ? conn->flags | HOSTC_NODELAY : conn->flags & ~HOSTC_NODELAY);
	conn_dirty(conn);
	return 0;
}

void conn_more(struct flextoe_conn *conn, bool more)
{
	if (!more && !(conn->flags & HOSTC_MORE))
		return;
	conn->hc_flags &= (uint16_t) ~(FLEXTOE_HC_MORE | FLEXTOE_HC_PUSH);
	conn->hc_flags |= more ? FLEXTOE_HC_MORE : FLEXTOE_HC_PUSH;
	conn->flags = (uint16_t)(more ? conn->flags | HOSTC_MORE : conn->flags & ~HOSTC_MORE);
	conn_dirty(conn);
}

void conn_quickack(struct flextoe_conn *conn, bool on)
{
	conn->hc_flags &= (uint16_t) ~(FLEXTOE_HC_QUICKACK | FLEXTOE_HC_SLOWACK);
	conn->hc_flags |= on ? FLEXTOE_HC_QUICKACK : FLEXTOE_HC_SLOWACK;
	conn_dirty(conn);
}
