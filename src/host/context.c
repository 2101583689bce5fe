/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A context: the pair of rings to the engine. Posts updates and requests, collects notifications in batches,
 * and sleeps. Called by the thread that owns the context; no function here takes a lock or allocates per
 * event. System calls are made by number: the POSIX layer has functions of the libc names. The rules of the
 * rings are in include/flextoe/abi.h.
 */
#include "host/attach.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define POLL_BATCH 32u /* notifications looked at together, for the prefetches to overlap */

/* ---- cookies ---- */

#define UNRUNG_LOOKS   4u /* vain looks after which a doorbell left unrung is rung */
#define NAME_SLOT_BITS 20u

uint32_t context_name_add(struct flextoe_context *ctx, void *object, enum name_kind kind)
{
	uint32_t slot = ctx->names_free;
	struct name *name;

	if (slot == UINT32_MAX) {
		uint32_t size = ctx->names_size ? ctx->names_size * 2 : 64;
		struct name *names;

		if (size > 1u << NAME_SLOT_BITS)
			return 0;
		names = realloc(ctx->names, size * sizeof(*names));
		if (!names)
			return 0;
		for (uint32_t i = ctx->names_size; i < size; i++)
			names[i] = (struct name){.generation = 1, .next = i + 1 < size ? i + 1 : UINT32_MAX};
		ctx->names_free = slot = ctx->names_size;
		ctx->names = names;
		ctx->names_size = size;
	}
	name = &ctx->names[slot];
	ctx->names_free = name->next;
	name->object = object;
	name->kind = (uint8_t)kind;
	return (uint32_t)name->generation << NAME_SLOT_BITS | slot;
}

static struct name *name_of(const struct flextoe_context *ctx, uint32_t cookie)
{
	uint32_t slot = cookie & ((1u << NAME_SLOT_BITS) - 1);
	struct name *name;

	if (slot >= ctx->names_size)
		return NULL;
	name = &ctx->names[slot];
	return name->kind != NAME_FREE && name->generation == cookie >> NAME_SLOT_BITS ? name : NULL;
}

void *context_name_find(const struct flextoe_context *ctx, uint32_t cookie, enum name_kind kind)
{
	struct name *name = name_of(ctx, cookie);

	return name && name->kind == kind ? name->object : NULL;
}

void context_name_remove(struct flextoe_context *ctx, uint32_t cookie)
{
	struct name *name = name_of(ctx, cookie);

	if (!name)
		return;
	name->kind = NAME_FREE;
	name->object = NULL;
	name->generation = name->generation % 0xfffu + 1; /* 12 bits, never 0: a cookie is never 0 */
	name->next = ctx->names_free;
	ctx->names_free = cookie & ((1u << NAME_SLOT_BITS) - 1);
}

/* ---- host control ---- */

static bool hc_room(struct flextoe_context *ctx)
{
	if (likely(ctx->hc_head - ctx->hc_seen < FLEXTOE_HC_SLOTS))
		return true;
	ctx->hc_seen = __atomic_load_n(&ctx->area->words.hc_consumed, __ATOMIC_ACQUIRE);
	return ctx->hc_head - ctx->hc_seen < FLEXTOE_HC_SLOTS;
}

static struct flextoe_hc *hc_slot(struct flextoe_context *ctx)
{
	return &ctx->area->hc[ctx->hc_head & (FLEXTOE_HC_SLOTS - 1)];
}

static void hc_publish(struct flextoe_context *ctx, struct flextoe_hc *slot)
{
	__atomic_store_n(&slot->mark, flextoe_mark(ctx->hc_head, FLEXTOE_HC_SLOTS), __ATOMIC_RELEASE);
	ctx->hc_head++;
}

static void update_post(struct flextoe_context *ctx, struct flextoe_conn *conn)
{
	struct flextoe_hc *slot = hc_slot(ctx);

	slot->update.conn = conn->handle;
	slot->update.tx_head = conn->tx_head;
	slot->update.rx_tail = conn->rx_tail;
	slot->update.flags = conn->hc_flags;
	slot->update.tx_origin = conn->tx_origin;
	slot->update.reserved0 = 0;
	slot->update.type = FLEXTOE_HC_UPDATE;
	hc_publish(ctx, slot);
	conn->rx_told = conn->rx_tail;
	/* FIN, CLOSE and ABORT are states, but the engine remembers them: each is told once. */
	conn->hc_flags = 0;
	conn->flags &= (uint16_t)~HOSTC_DIRTY;
	if (unlikely(conn->flags & HOSTC_FREEING))
		conn_free(conn);
}

/* 1 + the core this thread runs on, as in the words of a context. */
static uint32_t cpu_word(void)
{
	int cpu = sched_getcpu();

	return cpu < 0 ? UINT32_MAX : (uint32_t)cpu + 1;
}

/* Whether the engine sleeps and was not rung for in this sleep; asleep is its word. */
static bool engine_wants_ring(const struct flextoe_context *ctx, uint32_t asleep)
{
	return asleep && (asleep & ~FLEXTOE_ENGINE_DEEP) != ctx->rung;
}

/* Wakes the engine from the sleep that its word names. */
static void context_ring(struct flextoe_context *ctx, uint32_t asleep)
{
	uint64_t one = 1;

	ctx->rung = asleep & ~FLEXTOE_ENGINE_DEEP;
	ctx->unrung = false;
	/* Fails only when the counter is full, and then the engine has its wake-up already. */
	if (syscall(SYS_write, ctx->doorbell_fd, &one, sizeof(one)) < 0)
		return;
}

/* Rings what was left unrung, if the engine sleeps still. */
static void context_ring_late(struct flextoe_context *ctx)
{
	uint32_t asleep = __atomic_load_n(&ctx->area->words.engine_asleep, __ATOMIC_RELAXED);

	ctx->unrung = false;
	if (engine_wants_ring(ctx, asleep))
		context_ring(ctx, asleep);
}

void context_flush(struct flextoe_context *ctx)
{
	uint32_t done = 0, posted = ctx->hc_head, asleep;

	if (likely(ctx->dirty_count + ctx->queue_count == 0))
		return;
	while (done < ctx->queue_count && hc_room(ctx)) {
		struct flextoe_hc *slot = hc_slot(ctx);

		memcpy(slot, &ctx->queue[done++], offsetof(struct flextoe_hc, mark));
		hc_publish(ctx, slot);
	}
	if (done) {
		__atomic_store_n(&ctx->queue_count, ctx->queue_count - done, __ATOMIC_RELAXED);
		memmove(ctx->queue, ctx->queue + done, ctx->queue_count * sizeof(*ctx->queue));
	}
	for (done = 0; done < ctx->dirty_count && hc_room(ctx); done++)
		update_post(ctx, ctx->dirty[done]);
	__atomic_store_n(&ctx->dirty_count, ctx->dirty_count - done, __ATOMIC_RELAXED);
	if (unlikely(ctx->dirty_count))
		memmove(ctx->dirty, ctx->dirty + done, ctx->dirty_count * sizeof(*ctx->dirty));
	if (posted == ctx->hc_head && !ctx->dirty_count)
		return;
	/* The marks before the look at the word: the engine sets the word before its last look at the ring.
	 */
	atomic_thread_fence(memory_order_seq_cst);
	asleep = __atomic_load_n(&ctx->area->words.engine_asleep, __ATOMIC_RELAXED);
	if (!engine_wants_ring(ctx, asleep) || ctx->doorbell_fd < 0)
		return;
	if (!(asleep & FLEXTOE_ENGINE_DEEP) &&
		cpu_word() == __atomic_load_n(&ctx->area->words.engine_cpu, __ATOMIC_RELAXED))
		ctx->unrung = true; /* it cannot run before we sleep: see flextoe_context_arm() */
	else
		context_ring(ctx, asleep);
}

int context_request(struct flextoe_context *ctx, const struct flextoe_hc *hc)
{
	if (ctx->queue_count == ctx->queue_size) {
		uint32_t size = ctx->queue_size ? ctx->queue_size * 2 : 16;
		struct flextoe_hc *queue = realloc(ctx->queue, size * sizeof(*queue));

		if (!queue)
			return -ENOMEM;
		ctx->queue = queue;
		ctx->queue_size = size;
	}
	ctx->queue[ctx->queue_count] = *hc;
	__atomic_store_n(&ctx->queue_count, ctx->queue_count + 1u, __ATOMIC_RELAXED);
	return 0;
}

void context_dirty_add(struct flextoe_context *ctx, struct flextoe_conn *conn)
{
	if (!(conn->flags & HOSTC_OPEN))
		return; /* it has no name yet; its flags go out when it gets one */
	if (unlikely(ctx->dirty_count == ctx->dirty_size)) {
		uint32_t size = ctx->dirty_size * 2;
		struct flextoe_conn **dirty = realloc(ctx->dirty, size * sizeof(*dirty));

		if (!dirty) { /* make room by posting, however long the ring takes */
			while (ctx->dirty_count == ctx->dirty_size && !context_is_dead(ctx)) {
				context_flush(ctx);
				sched_yield();
			}
			if (ctx->dirty_count == ctx->dirty_size)
				return;
		} else {
			ctx->dirty = dirty;
			ctx->dirty_size = size;
		}
	}
	conn->flags |= HOSTC_DIRTY;
	ctx->dirty[ctx->dirty_count] = conn;
	__atomic_store_n(
		&ctx->dirty_count, ctx->dirty_count + 1u, __ATOMIC_RELAXED); /* lane_service() looks */
}

/* ---- notifications ---- */

/* Takes an update into the connection; returns the number of events made, at most 4. */
static int update_take(
	struct flextoe_conn *conn, const struct flextoe_ntf_update *update, struct flextoe_event *event)
{
	uint16_t news = update->flags & (uint16_t)~conn->ntf_flags;
	int n = 0;

	if (update->rx_head != conn->rx_head || (news & FLEXTOE_NTF_FIN)) {
		/* Positions only move forward; one that does not is old, or nonsense: leave it. */
		if ((int32_t)(update->rx_head - conn->rx_head) > 0 &&
			update->rx_head - conn->rx_tail <= 1u << conn->rx_shift) {
			conn->rx_origin = update->rx_origin;
			__atomic_store_n(&conn->rx_head, update->rx_head, __ATOMIC_RELAXED);
		}
		prefetch(
			conn->rx_buffer + ((conn->rx_tail - conn->rx_origin) & ((1u << conn->rx_shift) - 1)));
		event[n++] = (struct flextoe_event){
			.type = FLEXTOE_EVENT_READABLE, .conn = conn, .opaque = conn->opaque};
	}
	if ((int32_t)(update->tx_tail - conn->tx_tail) > 0 && (int32_t)(conn->tx_head - update->tx_tail) >= 0)
		__atomic_store_n(&conn->tx_tail, update->tx_tail, __ATOMIC_RELAXED);
	if ((conn->flags & HOSTC_TX_WANTED) && conn_writable(conn)) {
		conn->flags &= (uint16_t)~HOSTC_TX_WANTED;
		event[n++] = (struct flextoe_event){
			.type = FLEXTOE_EVENT_WRITABLE, .conn = conn, .opaque = conn->opaque};
	}
	if (likely(!news))
		return n;
	if (news & FLEXTOE_NTF_ERROR)
		conn->error = update->error ? update->error : ECONNRESET;
	__atomic_store_n(&conn->ntf_flags, conn->ntf_flags | news, __ATOMIC_RELEASE);
	if (news & FLEXTOE_NTF_ERROR)
		event[n++] = (struct flextoe_event){.type = FLEXTOE_EVENT_ERROR,
			.error = conn->error,
			.conn = conn,
			.opaque = conn->opaque};
	if (news & FLEXTOE_NTF_CLOSED)
		event[n++] = (struct flextoe_event){
			.type = FLEXTOE_EVENT_CLOSED, .conn = conn, .opaque = conn->opaque};
	return n;
}

static struct flextoe_conn *conn_of(struct flextoe_context *ctx, uint32_t handle)
{
	uint32_t index = flextoe_conn_index(handle);

	if (unlikely(index >= ctx->ft->conns_max))
		return NULL;
	return atomic_load_explicit(&ctx->ft->table[index], memory_order_acquire);
}

static int ntf_take(struct flextoe_context *ctx, const struct flextoe_ntf *ntf, struct flextoe_event *event)
{
	struct flextoe_conn *conn;

	if (likely(ntf->type == FLEXTOE_NTF_UPDATE)) {
		conn = conn_of(ctx, ntf->update.conn);
		/* Closed meanwhile, or its home has moved and the new one gets the full state. */
		if (unlikely(!conn || __atomic_load_n(&conn->ctx, __ATOMIC_ACQUIRE) != ctx ||
			     conn->handle != ntf->update.conn))
			return 0;
		return update_take(conn, &ntf->update, event);
	}
	if (ntf->type == FLEXTOE_NTF_RESULT)
		return listener_result(ctx, &ntf->result, event);
	if (ntf->type == FLEXTOE_NTF_ACCEPT || ntf->type == FLEXTOE_NTF_CONNECT)
		return conn_opened(ctx, ntf, event);
	return 0;
}

/* How many of the next notifications are there, at most max; what they need is being fetched. */
static unsigned ntf_look(struct flextoe_context *ctx, unsigned max)
{
	unsigned count = 0;

	for (; count < max; count++) {
		uint32_t at = ctx->ntf_tail + count;
		const struct flextoe_ntf *slot = &ctx->area->ntf[at & (FLEXTOE_NTF_SLOTS - 1)];
		uint32_t index;

		if (__atomic_load_n(&slot->mark, __ATOMIC_ACQUIRE) != flextoe_mark(at, FLEXTOE_NTF_SLOTS))
			break;
		if (slot->type != FLEXTOE_NTF_UPDATE)
			continue;
		index = flextoe_conn_index(slot->update.conn);
		if (index < ctx->ft->conns_max)
			prefetch(&ctx->ft->table[index]);
	}
	if (count < 2)
		return count;
	for (unsigned i = 0; i < count; i++) {
		const struct flextoe_ntf *slot =
			&ctx->area->ntf[(ctx->ntf_tail + i) & (FLEXTOE_NTF_SLOTS - 1)];

		if (slot->type == FLEXTOE_NTF_UPDATE)
			prefetch_write(conn_of(ctx, slot->update.conn));
	}
	return count;
}

bool context_is_dead(struct flextoe_context *ctx)
{
	if (unlikely(ctx->dead))
		return true;
	if (unlikely(__atomic_load_n(&ctx->area->words.context_dead, __ATOMIC_ACQUIRE) ||
		     atomic_load(&ctx->ft->dead)))
		ctx->dead = true;
	return ctx->dead;
}

/* Called when there is nothing to do: has the engine gone? */
static int dead_look(struct flextoe_context *ctx, struct flextoe_event *event)
{
	if (unlikely((++ctx->idle_polls & 0xfffu) == 0))
		attach_check_dead(ctx->ft);
	if (likely(!context_is_dead(ctx)) || ctx->dead_told)
		return 0;
	ctx->dead_told = true;
	*event = (struct flextoe_event){.type = FLEXTOE_EVENT_DEAD, .error = EIO};
	return 1;
}

int flextoe_poll(struct flextoe_context *ctx, struct flextoe_event *events, int max)
{
	int n = 0;

	if (max <= 0)
		return -EINVAL;
	context_flush(ctx);
	while (unlikely(ctx->carry_count) && n < max) {
		events[n++] = ctx->carry[0];
		memmove(ctx->carry, ctx->carry + 1, --ctx->carry_count * sizeof(ctx->carry[0]));
	}
	while (n < max) {
		unsigned count = ntf_look(ctx, POLL_BATCH), i;

		for (i = 0; i < count && n < max; i++) {
			/* A private copy: the engine may reuse the slot only after ntf_consumed says so. */
			const struct flextoe_ntf *slot =
				&ctx->area->ntf[(ctx->ntf_tail + i) & (FLEXTOE_NTF_SLOTS - 1)];

			if (likely(max - n >= 4)) {
				n += ntf_take(ctx, slot, events + n);
			} else {
				struct flextoe_event some[4];
				int made = ntf_take(ctx, slot, some), k = 0;

				while (k < made && n < max)
					events[n++] = some[k++];
				while (k < made)
					ctx->carry[ctx->carry_count++] = some[k++];
			}
		}
		__atomic_store_n(&ctx->ntf_tail, ctx->ntf_tail + i, __ATOMIC_RELAXED);
		if (i)
			__atomic_store_n(&ctx->area->words.ntf_consumed, ctx->ntf_tail, __ATOMIC_RELEASE);
		if (count < POLL_BATCH)
			break;
	}
	if (n == 0) {
		if (ctx->unrung && ++ctx->looks >= UNRUNG_LOOKS) { /* it looks instead of sleeping */
			ctx->looks = 0;
			context_ring_late(ctx);
		}
		n = dead_look(ctx, events);
	} else {
		ctx->looks = 0;
	}
	return n;
}

/* ---- sleeping ---- */

int flextoe_context_fd(struct flextoe_context *ctx)
{
	return ctx->wake_fd;
}

int flextoe_context_arm(struct flextoe_context *ctx)
{
	context_flush(ctx);
	if (ctx->unrung)
		context_ring_late(ctx);
	__atomic_store_n(&ctx->area->words.app_asleep, cpu_word(), __ATOMIC_RELAXED);
	/* The word before the last look: the engine looks at the word after it has written its marks. */
	atomic_thread_fence(memory_order_seq_cst);
	return context_pending(ctx) || ctx->carry_count || context_is_dead(ctx) || ctx->dirty_count ||
	       ctx->queue_count;
}

void flextoe_context_disarm(struct flextoe_context *ctx)
{
	__atomic_store_n(&ctx->area->words.app_asleep, 0, __ATOMIC_RELAXED);
}

/* Looks for spin_us; true when something came. */
static bool wait_spin(struct flextoe_context *ctx, int64_t timeout_us)
{
	uint64_t end = clock_us() + ctx->ft->spin_us;

	if (timeout_us >= 0 && (uint64_t)timeout_us < ctx->ft->spin_us)
		end = clock_us() + (uint64_t)timeout_us;
	do {
		for (int i = 0; i < 32; i++) {
			if (context_pending(ctx))
				return true;
			cpu_pause();
		}
	} while (clock_us() < end);
	return false;
}

/* Without an eventfd (an engine in this process that never kicks) waiting is looking now and then. */
static int wait_yielding(struct flextoe_context *ctx, int64_t timeout_us)
{
	uint64_t begin = clock_us();

	while (!context_pending(ctx) && !context_is_dead(ctx)) {
		if (timeout_us >= 0 && clock_us() - begin >= (uint64_t)timeout_us)
			return -ETIMEDOUT;
		context_flush(ctx);
		sched_yield();
	}
	return 0;
}

int flextoe_wait(struct flextoe_context *ctx, int64_t timeout_us)
{
	struct pollfd fds[2] = {{.fd = ctx->wake_fd, .events = POLLIN}, {.fd = ctx->ft->control_fd}};
	struct timespec ts, *timeout = NULL;
	int rc = 0, ready;

	context_flush(ctx);
	if (context_pending(ctx) || ctx->carry_count || context_is_dead(ctx))
		return 0;
	if (ctx->ft->spin_us && wait_spin(ctx, timeout_us))
		return 0;
	if (ctx->wake_fd < 0)
		return wait_yielding(ctx, timeout_us);
	if (!flextoe_context_arm(ctx)) {
		if (timeout_us >= 0) {
			ts.tv_sec = timeout_us / 1000000;
			ts.tv_nsec = timeout_us % 1000000 * 1000;
			timeout = &ts;
		}
		ready = (int)syscall(SYS_ppoll, fds, 2, timeout, NULL, 0);
		if (ready < 0)
			rc = -errno;
		else if (ready == 0)
			rc = -ETIMEDOUT;
		else if (fds[1].revents)
			attach_check_dead(ctx->ft);
		if (ready > 0 && fds[0].revents) {
			uint64_t kicks;

			if (syscall(SYS_read, ctx->wake_fd, &kicks, sizeof(kicks)) < 0)
				kicks = 0; /* another thread has cleared it */
		}
	}
	flextoe_context_disarm(ctx);
	return rc;
}
