/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fork() with open connections. Parent and child hold the same connections, as with the kernel's; the child
 * works on a context of its own that the parent opened for it just before, an `heir`. The first operation the
 * child does on a connection moves its notifications there. Who closes last ends the connection: the number
 * of other owners is in memory both share. A connection's positions are not shared: after a fork one of the
 * two uses it and the other closes it, as forking servers do.
 *
 * The parent takes an heir back when its process has ended, and closes what that process left open. Called
 * around fork() with all lanes and the process locked, and with the process locked from accept().
 */
#include "host/posix.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define HEIR_CONNS    256u /* connections a child may inherit; with more it inherits none */
#define REAP_EVERY_US 20000u

struct heir {
	unsigned lane;
	unsigned count;
	struct {
		atomic_uint handle; /* FLEXTOE_CONN_NONE: closed */
	} conn[HEIR_CONNS];
};

/* How far the owners that have left a connection had come. */
struct left {
	atomic_uint handle, tx_head, tx_origin, rx_tail;
};

/* Shared between the processes: mapped when the first child needs it. */
static struct heir *heirs;	    /* LANES_MAX of them */
static struct left *lefts;	    /* by connection index */
static atomic_ushort *other_owners; /* the same */

static unsigned heir_count;
static unsigned heirs_taken; /* in the parent: those whose child may live */
/* In the parent, by heir: a pipe that ends when the child exits or executes; -1: the context is free for the
   next child. Not shared: a child that runs late finds the state of its fork(), and closes nothing else. */
static int life_fd[LANES_MAX];
static int own_life_fd = -1;   /* in the child: the other end */
static struct heir *inherited; /* in the child: its own */
static struct heir *prepared;  /* between prepare and child */
static int prepared_fd[2];
static uint64_t reaped_us;

static bool heirs_map(void)
{
	size_t owners = process.ft->conns_max * (sizeof(*lefts) + sizeof(*other_owners));
	void *map;

	if (heirs)
		return true;
	map = mmap(NULL, LANES_MAX * sizeof(*heirs) + owners, PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (map == MAP_FAILED)
		return false;
	heirs = map;
	lefts = (struct left *)(heirs + LANES_MAX);
	other_owners = (atomic_ushort *)(lefts + process.ft->conns_max);
	return true;
}

bool heir_lane(unsigned index)
{
	for (unsigned i = 0; i < heir_count; i++)
		if (heirs[i].lane == index)
			return true;
	return false;
}

/* ---- the end of a connection ---- */

void heir_conn_opened(const struct flextoe_conn *conn)
{
	if (other_owners)
		atomic_store(&other_owners[flextoe_conn_index(conn->handle)], 0);
}

static bool owner_leaves(uint32_t handle)
{
	atomic_ushort *others = &other_owners[flextoe_conn_index(handle)];

	for (unsigned short now = atomic_load(others); now > 0;)
		if (atomic_compare_exchange_weak(others, &now, (unsigned short)(now - 1)))
			return true;
	return false;
}

static void position_raise(atomic_uint *position, uint32_t to)
{
	for (unsigned now = atomic_load(position); (int32_t)(to - now) > 0;)
		if (atomic_compare_exchange_weak(position, &now, to))
			break;
}

/* An owner leaves its positions behind; the last one's CLOSE carries the furthest, or else what another has
   read would count as unread. */
bool heir_conn_shared(struct flextoe_conn *conn)
{
	struct left *left;

	if (likely(!other_owners) || conn->handle == FLEXTOE_CONN_NONE)
		return false;
	for (unsigned i = 0; inherited && i < inherited->count; i++)
		if (atomic_load(&inherited->conn[i].handle) == conn->handle)
			atomic_store(&inherited->conn[i].handle, FLEXTOE_CONN_NONE);
	left = &lefts[flextoe_conn_index(conn->handle)];
	if (atomic_load(&left->handle) != conn->handle)
		return false; /* nobody else ever had it */
	if ((int32_t)(conn->tx_head - atomic_load(&left->tx_head)) > 0)
		atomic_store(&left->tx_origin, conn->tx_origin);
	position_raise(&left->tx_head, conn->tx_head);
	position_raise(&left->rx_tail, conn->rx_tail);
	if (owner_leaves(conn->handle))
		return true;
	conn->tx_head = atomic_load(&left->tx_head);
	conn->tx_origin = atomic_load(&left->tx_origin);
	conn->rx_tail = atomic_load(&left->rx_tail);
	return false;
}

/* ---- taking heirs back ---- */

/* The child is gone, or another program has taken its place. */
static bool child_ended(unsigned index)
{
	char c;

	return syscall(SYS_read, life_fd[index], &c, 1) == 0;
}

/* The rings go on where the child left them: its progress can be read off them. */
static void context_resume(struct flextoe_context *ctx)
{
	struct flextoe_context_area *area = ctx->area;
	uint32_t head = __atomic_load_n(&area->words.hc_consumed, __ATOMIC_ACQUIRE);

	ctx->ntf_tail = __atomic_load_n(&area->words.ntf_consumed, __ATOMIC_ACQUIRE);
	ctx->hc_seen = head;
	while (head - ctx->hc_seen < FLEXTOE_HC_SLOTS &&
		__atomic_load_n(&area->hc[head & (FLEXTOE_HC_SLOTS - 1)].mark, __ATOMIC_ACQUIRE) ==
			flextoe_mark(head, FLEXTOE_HC_SLOTS))
		head++;
	ctx->hc_head = head;
	ctx->dirty_count = ctx->queue_count = 0;
	ctx->carry_count = 0;
	__atomic_store_n(&area->words.app_asleep, 0, __ATOMIC_RELAXED);
}

static void heir_reap(unsigned index)
{
	struct heir *heir = &heirs[index];
	struct flextoe_context *ctx = lane_at(heir->lane)->ctx;
	const struct flextoe_hc leave = {
		.endpoint = {.type = FLEXTOE_HC_UNBIND}}; /* listeners it had joined */

	context_resume(ctx);
	context_request(ctx, &leave);
	for (unsigned i = 0; i < heir->count; i++) {
		uint32_t handle = atomic_load(&heir->conn[i].handle);
		struct left *left = &lefts[handle == FLEXTOE_CONN_NONE ? 0 : flextoe_conn_index(handle)];
		struct flextoe_hc hc = {.update = {.conn = handle,
						.tx_head = atomic_load(&left->tx_head),
						.tx_origin = atomic_load(&left->tx_origin),
						.rx_tail = atomic_load(&left->rx_tail),
						.flags = FLEXTOE_HC_CLOSE,
						.type = FLEXTOE_HC_UPDATE}};

		if (handle != FLEXTOE_CONN_NONE && !owner_leaves(handle))
			context_request(ctx, &hc);
	}
	context_flush(ctx);
	heir->count = 0;
	heirs_taken--;
	syscall(SYS_close, life_fd[index]);
	life_fd[index] = -1;
}

/* The process is locked. */
static void reap_locked(void)
{
	for (unsigned i = 0; i < heir_count; i++)
		if (life_fd[i] >= 0 && child_ended(i))
			heir_reap(i);
}

bool heirs_reap(void)
{
	uint64_t now;

	if (likely(!heirs_taken) || inherited)
		return false;
	now = clock_us();
	if (now - reaped_us >= REAP_EVERY_US) {
		mutex_lock(&process.lock);
		reap_locked();
		mutex_unlock(&process.lock);
		reaped_us = now;
	}
	return heirs_taken != 0;
}

/* ---- around fork() ---- */

static struct heir *heir_take(void)
{
	struct heir *heir;
	struct lane *lane;

	reap_locked();
	for (unsigned i = 0; i < heir_count; i++)
		if (life_fd[i] < 0)
			return &heirs[i];
	/* Half of the contexts are for threads. */
	if (process.lane_count >= LANES_MAX || heir_count >= process.ft->contexts_max / 2)
		return NULL;
	lane = &process.lane[process.lane_count];
	if (flextoe_context_open(process.ft, &lane->ctx) < 0)
		return NULL;
	lane->index = process.lane_count;
	heir = &heirs[heir_count];
	heir->lane = lane->index;
	life_fd[heir_count] = -1;
	heir_count++;
	__atomic_store_n(&process.lane_count, process.lane_count + 1, __ATOMIC_RELEASE);
	return heir;
}

static bool inheritable(const struct socket *s)
{
	return s && s->state == SOCKET_CONNECTED && s->conn && !(s->conn->ntf_flags & FLEXTOE_NTF_ERROR);
}

static void left_begin(const struct flextoe_conn *conn)
{
	struct left *left = &lefts[flextoe_conn_index(conn->handle)];

	if (atomic_load(&left->handle) == conn->handle)
		return; /* an earlier child has it too */
	atomic_store(&left->tx_head, conn->tx_head);
	atomic_store(&left->tx_origin, conn->tx_origin);
	atomic_store(&left->rx_tail, conn->rx_tail);
	atomic_store(&left->handle, conn->handle);
}

void heir_prepare(void)
{
	unsigned count = 0;

	prepared = NULL;
	if (inherited) /* a grandchild starts with nothing */
		return;
	for (int fd = 0; fd < fdtable_used; fd++)
		count += inheritable(socket_here(fd));
	if (!count || count > HEIR_CONNS || !heirs_map())
		return;
	prepared = heir_take();
	if (prepared && pipe2(prepared_fd, O_CLOEXEC | O_NONBLOCK) < 0)
		prepared = NULL;
	if (!prepared)
		return;
	prepared->count = 0;
	for (int fd = 0; fd < fdtable_used; fd++) {
		struct socket *s = socket_here(fd);
		unsigned i;

		if (!inheritable(s))
			continue;
		for (i = 0; i < prepared->count; i++) /* a copy made by dup() */
			if (prepared->conn[i].handle == s->conn->handle)
				break;
		if (i < prepared->count)
			continue;
		atomic_store(&prepared->conn[i].handle, s->conn->handle);
		prepared->count++;
		left_begin(s->conn);
		atomic_fetch_add(&other_owners[flextoe_conn_index(s->conn->handle)], 1);
	}
	life_fd[prepared - heirs] = prepared_fd[0];
	heirs_taken++;
}

void heir_parent(void)
{
	if (prepared)
		syscall(SYS_close, prepared_fd[1]); /* should fork() have failed, this was the last writer */
	prepared = NULL;
}

bool heir_child(void)
{
	struct lane *lane;

	if (own_life_fd >= 0)
		syscall(SYS_close, own_life_fd);
	own_life_fd = -1;
	inherited = NULL;
	for (unsigned i = 0; i < heir_count; i++) {
		if (life_fd[i] >= 0)
			syscall(SYS_close, life_fd[i]); /* its own heir's too */
		life_fd[i] = -1;
	}
	heirs_taken = 0;
	if (!prepared) {
		if (heirs)
			munmap(heirs,
				LANES_MAX * sizeof(*heirs) +
					process.ft->conns_max * (sizeof(*lefts) + sizeof(*other_owners)));
		heirs = NULL;
		other_owners = NULL;
		heir_count = 0;
		return false;
	}
	inherited = prepared;
	prepared = NULL;
	own_life_fd = prepared_fd[1];
	lane = lane_at(inherited->lane);
	for (int fd = 0; fd < fdtable_used; fd++) {
		struct file *file = file_of(fd);
		struct socket *s = socket_here(fd);

		if (s && !inheritable(s) && !kept_child(s, lane))
			atomic_store(&fdtable[fd], NULL);
		else if (file && file->kind == FILE_EPOLL)
			epoll_forget((struct epoll *)file);
		if (!inheritable(s) || s->lane == lane)
			continue;
		s->lane = lane;
		s->items = NULL;
		s->waiting = 0;
		s->inherited = true;
		s->conn->ctx = lane->ctx;
		s->conn->hc_flags = 0;
		s->conn->flags &= (uint16_t)~HOSTC_DIRTY;
	}
	return true;
}

struct lane *heir_own_lane(void)
{
	return inherited ? lane_at(inherited->lane) : NULL;
}
