/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * See fake_engine.h. One thread (the test's, or the engine's own) runs the steps; what tests do to the engine
 * from outside goes through its lock.
 */
#include "fake_engine.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#define CONTEXTS  16u
#define CONNS	  512u
#define ENDPOINTS 64u
#define AREAS	  (CONTEXTS * sizeof(struct flextoe_context_area))
#define SIZE	  (AREAS + (uint64_t)CONNS * 2 * (1u << FAKE_SHIFT) + (1u << FAKE_SHIFT))

struct fake_conn {
	bool used, fin, fin_told, released, accepted;
	uint32_t generation, handle, peer, context;
	uint32_t rx_head, rx_tail, tx_head, tx_tail;
	uint32_t rx_origin, tx_origin;
	uint16_t flags, error;
	bool told; /* the state was notified */
	bool owed; /* and has changed since */
};

struct fake_endpoint {
	bool used, listening;
	uint32_t cookie, context;
	uint16_t port;
};

struct fake_engine {
	uint8_t *base;
	uint32_t contexts;
	uint32_t hc_pos[CONTEXTS], ntf_pos[CONTEXTS];
	int wake_fd[CONTEXTS], doorbell_fd;
	bool sleepy;
	atomic_bool stop;
	bool running;
	pthread_t thread;
	pthread_mutex_t lock;
	struct fake_conn conn[CONNS];
	struct fake_endpoint endpoint[ENDPOINTS];
	uint16_t next_port;
	unsigned violations;
	struct flextoe_hc_options options; /* last told */
	bool stalled;			   /* nothing is carried */
	unsigned more;			   /* updates that hold something back */
	uint32_t sleeps;
};

struct flextoe_context_area *fake_area(struct fake_engine *e, uint32_t context)
{
	return &((struct flextoe_context_area *)e->base)[context];
}

struct fake_engine *fake_engine_create(bool sleepy)
{
	struct fake_engine *e = calloc(1, sizeof(*e));

	e->base = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	e->sleepy = sleepy;
	e->doorbell_fd = sleepy ? eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK) : -1;
	e->next_port = 40000;
	pthread_mutex_init(&e->lock, NULL);
	return e;
}

void fake_engine_destroy(struct fake_engine *e)
{
	if (e->running)
		fake_engine_stop(e);
	for (uint32_t i = 0; i < e->contexts; i++)
		if (e->wake_fd[i] >= 0)
			close(e->wake_fd[i]);
	if (e->doorbell_fd >= 0)
		close(e->doorbell_fd);
	munmap(e->base, SIZE);
	pthread_mutex_destroy(&e->lock);
	free(e);
}

static int context_open(void *arg, uint32_t *number, uint64_t *offset, int *wake_fd, int *doorbell_fd)
{
	struct fake_engine *e = arg;

	if (e->contexts == CONTEXTS)
		return -ENOSPC;
	pthread_mutex_lock(&e->lock);
	*number = e->contexts;
	*offset = *number * sizeof(struct flextoe_context_area);
	*wake_fd = e->wake_fd[*number] = e->sleepy ? eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK) : -1;
	*doorbell_fd = e->doorbell_fd;
	e->contexts++;
	pthread_mutex_unlock(&e->lock);
	return 0;
}

struct flextoe_memory fake_engine_memory(struct fake_engine *e)
{
	return (struct flextoe_memory){.base = e->base,
		.size = SIZE,
		.conns_max = CONNS,
		.contexts_max = CONTEXTS,
		.spin_us = 0,
		.rx_shift = FAKE_SHIFT,
		.tx_shift = FAKE_SHIFT,
		.context_open = context_open,
		.arg = e};
}

/* ---- rings ---- */

bool fake_hc_next(struct fake_engine *e, uint32_t context, struct flextoe_hc *out)
{
	struct flextoe_context_area *area = fake_area(e, context);
	uint32_t at = e->hc_pos[context];
	struct flextoe_hc *slot = &area->hc[at & (FLEXTOE_HC_SLOTS - 1)];

	if (__atomic_load_n(&slot->mark, __ATOMIC_ACQUIRE) != flextoe_mark(at, FLEXTOE_HC_SLOTS))
		return false;
	*out = *slot;
	__atomic_store_n(&area->words.hc_consumed, ++e->hc_pos[context], __ATOMIC_RELEASE);
	return true;
}

bool fake_notify(struct fake_engine *e, uint32_t context, const struct flextoe_ntf *ntf)
{
	struct flextoe_context_area *area = fake_area(e, context);
	uint32_t at = e->ntf_pos[context];
	struct flextoe_ntf *slot = &area->ntf[at & (FLEXTOE_NTF_SLOTS - 1)];
	uint64_t one = 1;

	if (at - __atomic_load_n(&area->words.ntf_consumed, __ATOMIC_ACQUIRE) == FLEXTOE_NTF_SLOTS)
		return false;
	memcpy(slot, ntf, offsetof(struct flextoe_ntf, mark));
	__atomic_store_n(&slot->mark, flextoe_mark(at, FLEXTOE_NTF_SLOTS), __ATOMIC_RELEASE);
	e->ntf_pos[context]++;
	atomic_thread_fence(memory_order_seq_cst);
	if (e->sleepy && __atomic_load_n(&area->words.app_asleep, __ATOMIC_RELAXED))
		return write(e->wake_fd[context], &one, sizeof(one)) > 0;
	return true;
}

/* ---- connections ---- */

static uint8_t *buffer(struct fake_engine *e, uint32_t conn, bool tx)
{
	return e->base + ((AREAS + 4095) & ~4095ull) + ((uint64_t)conn * 2 + tx) * (1u << FAKE_SHIFT);
}

static uint32_t buffer_page(struct fake_engine *e, uint32_t conn, bool tx)
{
	return (uint32_t)((buffer(e, conn, tx) - e->base) >> 12);
}

static uint32_t conn_new(struct fake_engine *e, uint32_t context)
{
	for (uint32_t i = 0; i < CONNS; i++) {
		struct fake_conn *c = &e->conn[i];
		uint32_t generation = c->generation + 1;

		if (c->used)
			continue;
		*c = (struct fake_conn){.used = true, .generation = generation, .context = context};
		c->handle = i | generation << FLEXTOE_CONN_INDEX_BITS;
		c->told = true;
		return i;
	}
	return CONNS;
}

static void opened(
	struct fake_engine *e, uint32_t index, uint8_t type, uint32_t cookie, uint16_t lport, uint16_t rport)
{
	struct flextoe_ntf ntf = {.opened = {.cookie = cookie,
					  .conn = e->conn[index].handle,
					  .local_addr = FAKE_ADDRESS,
					  .remote_addr = FAKE_ADDRESS,
					  .local_port = lport,
					  .remote_port = rport,
					  .rx_page = buffer_page(e, index, false),
					  .tx_page = buffer_page(e, index, true),
					  .rx_shift = FAKE_SHIFT,
					  .tx_shift = FAKE_SHIFT,
					  .type = type}};

	fake_notify(e, e->conn[index].context, &ntf);
}

static void result(struct fake_engine *e, uint32_t context, const struct flextoe_hc_endpoint *hc,
	uint32_t endpoint, uint16_t port, int error)
{
	struct flextoe_ntf ntf = {.result = {.cookie = hc->cookie,
					  .endpoint = endpoint,
					  .local_addr = hc->local_addr,
					  .local_port = port,
					  .error = (uint16_t)error,
					  .request = hc->type,
					  .type = FLEXTOE_NTF_RESULT}};

	fake_notify(e, context, &ntf);
}

static void bind_port(struct fake_engine *e, uint32_t context, const struct flextoe_hc_endpoint *hc)
{
	uint16_t port = hc->local_port ? hc->local_port : htons(e->next_port++);

	for (uint32_t i = 0; i < ENDPOINTS; i++)
		if (e->endpoint[i].used && e->endpoint[i].port == port) {
			result(e, context, hc, 0, 0, EADDRINUSE);
			return;
		}
	for (uint32_t i = 0; i < ENDPOINTS; i++) {
		if (e->endpoint[i].used)
			continue;
		e->endpoint[i] = (struct fake_endpoint){
			.used = true, .cookie = hc->cookie, .context = context, .port = port};
		result(e, context, hc, i + 1, port, 0);
		return;
	}
	result(e, context, hc, 0, 0, ENOBUFS);
}

static void connect_to(struct fake_engine *e, uint32_t context, const struct flextoe_hc_endpoint *hc)
{
	struct fake_endpoint *to = NULL;
	uint16_t port = hc->endpoint ? e->endpoint[hc->endpoint - 1].port : htons(e->next_port++);
	uint32_t a, b;

	if (hc->remote_addr == FAKE_PEERS_DEAD)
		return;
	for (uint32_t i = 0; i < ENDPOINTS; i++)
		if (e->endpoint[i].listening && e->endpoint[i].port == hc->remote_port)
			to = &e->endpoint[i];
	a = to ? conn_new(e, context) : CONNS;
	b = to ? conn_new(e, to->context) : CONNS;
	if (a == CONNS || b == CONNS) {
		result(e, context, hc, 0, 0, to ? ENOBUFS : ECONNREFUSED);
		return;
	}
	e->conn[a].peer = b;
	e->conn[b].peer = a;
	opened(e, a, FLEXTOE_NTF_CONNECT, hc->cookie, port, to->port);
	opened(e, b, FLEXTOE_NTF_ACCEPT, to->cookie, to->port, port);
}

static void conn_break(struct fake_engine *e, uint32_t index, int error)
{
	struct fake_conn *c = &e->conn[index];

	if (!c->used)
		return;
	c->flags |= FLEXTOE_NTF_ERROR;
	c->error = (uint16_t)error;
	c->owed = true;
}

static void conn_update(struct fake_engine *e, uint32_t context, const struct flextoe_hc_update *hc)
{
	uint32_t index = flextoe_conn_index(hc->conn);
	struct fake_conn *c;

	if (index >= CONNS || !e->conn[index].used || e->conn[index].handle != hc->conn) {
		e->violations++;
		return;
	}
	c = &e->conn[index];
	e->more += (hc->flags & FLEXTOE_HC_MORE) != 0;
	if (hc->flags & ~FLEXTOE_HC_FLAGS_ALL || hc->tx_head - c->tx_tail > 1u << FAKE_SHIFT ||
		c->rx_head - hc->rx_tail > 1u << FAKE_SHIFT)
		e->violations++;
	if ((int32_t)(hc->tx_head - c->tx_head) > 0) {
		if (hc->tx_origin != c->tx_origin && c->tx_tail != c->tx_head)
			e->violations++; /* moved under bytes that are still in the buffer */
		c->tx_origin = hc->tx_origin;
		c->tx_head = hc->tx_head;
	}
	if ((int32_t)(hc->rx_tail - c->rx_tail) > 0)
		c->rx_tail = hc->rx_tail;
	if (hc->flags & FLEXTOE_HC_NOTIFY_HERE) {
		c->context = context;
		c->owed = true;
	}
	if (hc->flags & (FLEXTOE_HC_FIN | FLEXTOE_HC_CLOSE))
		c->fin = true;
	if (hc->flags & (FLEXTOE_HC_CLOSE | FLEXTOE_HC_ABORT))
		c->released = true;
	if ((hc->flags & FLEXTOE_HC_ABORT) || ((hc->flags & FLEXTOE_HC_CLOSE) && c->rx_tail != c->rx_head))
		conn_break(e, c->peer, ECONNRESET);
}

/* Moves what one side has written to the other, and tells both. */
static unsigned conn_carry(struct fake_engine *e, uint32_t index)
{
	struct fake_conn *c = &e->conn[index], *p = &e->conn[c->peer];
	uint32_t mask = (1u << FAKE_SHIFT) - 1, moved = 0;

	if (!c->used || (c->flags & FLEXTOE_NTF_ERROR) || e->stalled)
		goto notify;
	if (p->rx_head == p->rx_tail)
		p->rx_origin = p->rx_head;
	while (c->tx_tail != c->tx_head && p->rx_head - p->rx_tail <= mask && !p->released) {
		buffer(e, c->peer, false)[(p->rx_head++ - p->rx_origin) & mask] =
			buffer(e, index, true)[(c->tx_tail++ - c->tx_origin) & mask];
		moved++;
	}
	if (moved)
		c->owed = p->owed = true;
	if (p->released && c->tx_tail != c->tx_head && p->used)
		conn_break(e, index, ECONNRESET);
	if (c->fin && !c->fin_told && c->tx_tail == c->tx_head) {
		c->fin_told = true;
		p->flags |= FLEXTOE_NTF_FIN;
		p->owed = true;
		if (p->fin_told) {
			c->flags |= FLEXTOE_NTF_CLOSED;
			p->flags |= FLEXTOE_NTF_CLOSED;
			c->owed = true;
		}
	}
notify:
	if (c->used && c->owed && !c->released) {
		struct flextoe_ntf ntf = {.update = {.conn = c->handle,
						  .rx_head = c->rx_head,
						  .tx_tail = c->tx_tail,
						  .rx_origin = c->rx_origin,
						  .flags = c->flags,
						  .error = c->error,
						  .type = FLEXTOE_NTF_UPDATE}};

		if (fake_notify(e, c->context, &ntf))
			c->owed = false;
	}
	/* A pair goes when both are given up and nothing is left to carry. */
	if (c->used && c->released && p->released &&
		(c->tx_tail == c->tx_head || (c->flags & FLEXTOE_NTF_ERROR)) &&
		(p->tx_tail == p->tx_head || (p->flags & FLEXTOE_NTF_ERROR)))
		c->used = p->used = false;
	return moved;
}

static unsigned step_locked(struct fake_engine *e)
{
	unsigned done = 0;

	for (uint32_t i = 0; i < e->contexts; i++) {
		struct flextoe_hc hc;

		while (fake_hc_next(e, i, &hc)) {
			struct fake_endpoint *endpoint = NULL;

			done++;
			if (hc.type != FLEXTOE_HC_UPDATE && hc.type != FLEXTOE_HC_OPTIONS &&
				hc.endpoint.endpoint && hc.endpoint.endpoint <= ENDPOINTS)
				endpoint = &e->endpoint[hc.endpoint.endpoint - 1];
			if (hc.type == FLEXTOE_HC_UPDATE)
				conn_update(e, i, &hc.update);
			else if (hc.type == FLEXTOE_HC_OPTIONS)
				e->options = hc.options;
			else if (hc.type == FLEXTOE_HC_WANT)
				continue; /* it hands over everything at once */
			else if (hc.type == FLEXTOE_HC_BIND)
				bind_port(e, i, &hc.endpoint);
			else if (hc.type == FLEXTOE_HC_CONNECT)
				connect_to(e, i, &hc.endpoint);
			else if (!endpoint || !endpoint->used)
				e->violations++;
			else {
				endpoint->listening = hc.type == FLEXTOE_HC_LISTEN;
				endpoint->context = i;
				endpoint->used = hc.type != FLEXTOE_HC_UNBIND;
				result(e, i, &hc.endpoint, hc.endpoint.endpoint, endpoint->port, 0);
			}
		}
	}
	for (uint32_t i = 0; i < CONNS; i++)
		done += conn_carry(e, i);
	return done;
}

unsigned fake_engine_step(struct fake_engine *e)
{
	unsigned done;

	pthread_mutex_lock(&e->lock);
	done = step_locked(e);
	pthread_mutex_unlock(&e->lock);
	return done;
}

/* ---- the thread ---- */

static void asleep_set(struct fake_engine *e, uint32_t value)
{
	for (uint32_t i = 0; i < e->contexts; i++)
		__atomic_store_n(&fake_area(e, i)->words.engine_asleep, value, __ATOMIC_RELAXED);
	atomic_thread_fence(memory_order_seq_cst);
}

static void *engine_main(void *arg)
{
	struct fake_engine *e = arg;
	struct pollfd pfd = {.fd = e->doorbell_fd, .events = POLLIN};
	uint64_t rings;

	while (!atomic_load(&e->stop)) {
		if (fake_engine_step(e))
			continue;
		asleep_set(e, ++e->sleeps);
		/* A new context does not know yet that the engine sleeps: look again after a while. */
		if (!fake_engine_step(e) && poll(&pfd, 1, 50) > 0 &&
			read(e->doorbell_fd, &rings, sizeof(rings)) < 0)
			rings = 0;
		asleep_set(e, 0);
	}
	return NULL;
}

void fake_engine_start(struct fake_engine *e)
{
	atomic_store(&e->stop, false);
	e->running = true;
	pthread_create(&e->thread, NULL, engine_main, e);
}

void fake_engine_stop(struct fake_engine *e)
{
	atomic_store(&e->stop, true);
	pthread_join(e->thread, NULL);
	e->running = false;
}

void fake_engine_break(struct fake_engine *e, int error)
{
	pthread_mutex_lock(&e->lock);
	for (uint32_t i = 0; i < CONNS; i++)
		conn_break(e, i, error);
	pthread_mutex_unlock(&e->lock);
}

void fake_engine_kill(struct fake_engine *e)
{
	uint64_t one = 1;

	pthread_mutex_lock(&e->lock);
	for (uint32_t i = 0; i < e->contexts; i++) {
		__atomic_store_n(&fake_area(e, i)->words.context_dead, 1, __ATOMIC_RELEASE);
		if (e->wake_fd[i] >= 0 && write(e->wake_fd[i], &one, sizeof(one)) < 0)
			continue;
	}
	pthread_mutex_unlock(&e->lock);
}

unsigned fake_engine_violations(const struct fake_engine *e)
{
	return e->violations;
}

struct flextoe_hc_options fake_engine_options(struct fake_engine *e)
{
	struct flextoe_hc_options options;

	pthread_mutex_lock(&e->lock);
	options = e->options;
	pthread_mutex_unlock(&e->lock);
	return options;
}

unsigned fake_engine_more(struct fake_engine *e)
{
	unsigned more;

	pthread_mutex_lock(&e->lock);
	more = e->more;
	pthread_mutex_unlock(&e->lock);
	return more;
}

void fake_engine_stall(struct fake_engine *e, bool on)
{
	pthread_mutex_lock(&e->lock);
	e->stalled = on;
	pthread_mutex_unlock(&e->lock);
}
