/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Attaching a process to an engine: the control channel, the mapping of the region, contexts, and the pool of
 * connections. Slow path only. Any thread may call; what threads share is under the attachment's lock. The
 * engine's messages are checked like anybody's: a wrong length or offset is a refusal, not a crash.
 */
#include "host/attach.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#define ANSWER_TIMEOUT_MS 5000
#define SLAB_CONNS	  512u /* connections a slab: 64 KiB */
#define BATCH_CONNS	  32u  /* connections a context takes at a time */

struct slab {
	struct slab *next;
	uint8_t pad[120];
	struct flextoe_conn conn[SLAB_CONNS];
};

static _Thread_local char error_text[240];

const char *attach_error_text(void)
{
	return error_text;
}

/* ---- control channel ---- */

static int channel_connect(const char *path)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd, rc;

	if (strlen(path) >= sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	strcpy(addr.sun_path, path);
	/* By system call: the POSIX layer has functions of these names. */
	fd = (int)syscall(SYS_socket, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	do
		rc = (int)syscall(SYS_connect, fd, &addr, sizeof(addr));
	while (rc < 0 && errno == EINTR);
	if (rc < 0) {
		rc = -errno;
		syscall(SYS_close, fd);
		return rc;
	}
	return fd;
}

static void fds_close(const int *fds, int count)
{
	for (int i = 0; i < count; i++)
		if (fds[i] >= 0)
			syscall(SYS_close, fds[i]);
}

/* One message and up to two descriptors. Returns its length, or a negative errno value. */
static ssize_t channel_receive(int fd, void *buffer, size_t size, int fds[2])
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(2 * sizeof(int))];
	} control;
	struct iovec iov = {.iov_base = buffer, .iov_len = size};
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
	struct pollfd pfd = {.fd = fd, .events = POLLIN};
	struct timespec patience = {.tv_sec = ANSWER_TIMEOUT_MS / 1000};
	ssize_t len;
	int rc;

	fds[0] = fds[1] = -1;
	do
		rc = (int)syscall(SYS_ppoll, &pfd, 1, &patience, NULL, 0);
	while (rc < 0 && errno == EINTR);
	if (rc == 0)
		return -ETIMEDOUT;
	do
		len = syscall(SYS_recvmsg, fd, &msg, MSG_CMSG_CLOEXEC);
	while (len < 0 && errno == EINTR);
	if (len < 0)
		return -errno;
	if (len == 0)
		return -ECONNRESET;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c))
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
			size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

			memcpy(fds, CMSG_DATA(c), (count < 2 ? count : 2) * sizeof(int));
		}
	return len;
}

/*
 * Sends a request and reads its answer of `type` into `answer` (answer_size bytes), with descriptors. Other
 * answers to requests that timed out before are skipped.
 */
static int channel_request(int fd, const void *request, size_t request_size, uint16_t type, void *answer,
	size_t answer_size, int fds[2])
{
	union {
		struct flextoe_msg_header header;
		struct flextoe_msg_error error;
		struct flextoe_msg_welcome welcome;
		char bytes[1024];
	} message;
	ssize_t len;

	do
		len = syscall(SYS_sendto, fd, request, request_size, MSG_NOSIGNAL, NULL, 0);
	while (len < 0 && errno == EINTR);
	if (len < 0)
		return -errno;
	for (int skipped = 0; skipped < 16; skipped++) {
		memset(&message, 0, sizeof(message));
		len = channel_receive(fd, &message, sizeof(message), fds);
		if (len < 0)
			return (int)len;
		if ((size_t)len < sizeof(message.header) || message.header.version != FLEXTOE_ABI_VERSION) {
			fds_close(fds, 2);
			return -EPROTO;
		}
		if (message.header.type == FLEXTOE_MSG_ERROR) {
			fds_close(fds, 2);
			message.error.text[sizeof(message.error.text) - 1] = '\0';
			snprintf(error_text, sizeof(error_text), "%s", message.error.text);
			return message.header.error ? -(int)message.header.error : -EPROTO;
		}
		if (message.header.type != type) {
			fds_close(fds, 2);
			continue;
		}
		if ((size_t)len < answer_size) {
			fds_close(fds, 2);
			return -EPROTO;
		}
		memcpy(answer, &message, answer_size);
		return 0;
	}
	return -EPROTO;
}

static struct flextoe_msg_header header_of(uint16_t type, size_t length)
{
	return (struct flextoe_msg_header){
		.version = FLEXTOE_ABI_VERSION, .type = type, .length = (uint32_t)length};
}

int attach_conn_info(struct flextoe *ft, struct flextoe_msg_conn_info *info)
{
	int fds[2], rc;

	if (ft->control_fd < 0 || ft->channel_shared)
		return -ENOTSUP;
	info->header = header_of(FLEXTOE_MSG_CONN_INFO, sizeof(*info));
	pthread_mutex_lock(&ft->lock);
	rc = channel_request(
		ft->control_fd, info, sizeof(*info), FLEXTOE_MSG_CONN_INFO, info, sizeof(*info), fds);
	pthread_mutex_unlock(&ft->lock);
	if (rc == 0)
		fds_close(fds, 2);
	return rc;
}

bool attach_check_dead(struct flextoe *ft)
{
	struct pollfd pfd = {.fd = ft->control_fd};
	struct timespec now = {0};

	if (atomic_load(&ft->dead))
		return true;
	if (ft->control_fd >= 0 && syscall(SYS_ppoll, &pfd, 1, &now, NULL, 0) > 0 &&
		(pfd.revents & (POLLHUP | POLLERR | POLLNVAL)))
		atomic_store(&ft->dead, true);
	return atomic_load(&ft->dead);
}

/* ---- the attachment ---- */

static int attach_alloc(uint32_t conns_max, struct flextoe **out)
{
	struct flextoe *ft = calloc(1, sizeof(*ft));

	if (!ft)
		return -ENOMEM;
	pthread_mutex_init(&ft->lock, NULL);
	ft->control_fd = -1;
	ft->conns_max = conns_max;
	ft->table = mmap(NULL, conns_max * sizeof(*ft->table), PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (ft->table == MAP_FAILED) {
		free(ft);
		return -ENOMEM;
	}
	*out = ft;
	return 0;
}

static bool welcome_ok(const struct flextoe_msg_welcome *welcome)
{
	uint64_t contexts_end = welcome->context_offset +
				(uint64_t)welcome->contexts_max * sizeof(struct flextoe_context_area);

	return welcome->conns_max && welcome->conns_max <= 1u << FLEXTOE_CONN_INDEX_BITS &&
	       welcome->contexts_max && welcome->contexts_max <= FLEXTOE_CONTEXTS_MAX &&
	       welcome->context_offset % 4096 == 0 && contexts_end <= welcome->region_size &&
	       welcome->address_count <= FLEXTOE_ADDRESSES_MAX;
}

/* Remembered, since nginx and others empty the environment of their workers. */
static const char *socket_path(const char *path)
{
	static char remembered[sizeof(((struct sockaddr_un *)0)->sun_path) + 1];

	if (!path && remembered[0])
		return remembered;
	if (!path)
		path = getenv("FLEXTOE_SOCKET");
	if (!path || !*path)
		path = FLEXTOE_SOCKET_DEFAULT;
	if (!remembered[0])
		snprintf(remembered, sizeof(remembered), "%s", path);
	return path;
}

int flextoe_open(const char *path, const char *name, struct flextoe **out)
{
	int fd;

	error_text[0] = '\0';
	fd = channel_connect(socket_path(path));
	return fd < 0 ? fd : attach_over(fd, name, out);
}

int attach_over(int fd, const char *name, struct flextoe **out)
{
	struct flextoe_msg_hello hello = {.header = header_of(FLEXTOE_MSG_HELLO, sizeof(hello))};
	struct flextoe_msg_welcome welcome;
	struct flextoe *ft = NULL;
	int fds[2], rc;

	error_text[0] = '\0';
	hello.pid = (uint32_t)getpid();
	snprintf(hello.name, sizeof(hello.name), "%s", name ? name : "");
	rc = channel_request(fd, &hello, sizeof(hello), FLEXTOE_MSG_WELCOME, &welcome, sizeof(welcome), fds);
	if (rc < 0)
		goto close_channel;
	rc = -EPROTO;
	if (fds[0] < 0 || !welcome_ok(&welcome))
		goto close_fds;
	rc = attach_alloc(welcome.conns_max, &ft);
	if (rc < 0)
		goto close_fds;
	ft->base = mmap(
		NULL, welcome.region_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fds[0], 0);
	if (ft->base == MAP_FAILED) {
		rc = -ENOMEM;
		munmap(ft->table, ft->conns_max * sizeof(*ft->table));
		free(ft);
		goto close_fds;
	}
	fds_close(fds, 2);
	ft->mapped = true;
	ft->size = welcome.region_size;
	ft->contexts_max = welcome.contexts_max;
	ft->context_offset = welcome.context_offset;
	ft->spin_us = welcome.spin_us;
	ft->rx_shift = welcome.rx_shift;
	ft->tx_shift = welcome.tx_shift;
	ft->control_fd = fd;
	ft->welcome = welcome;
	*out = ft;
	return 0;

close_fds:
	fds_close(fds, 2);
close_channel:
	syscall(SYS_close, fd);
	return rc;
}

int flextoe_attach_memory(const struct flextoe_memory *memory, struct flextoe **out)
{
	struct flextoe *ft;
	int rc;

	if (!memory->base || !memory->conns_max || memory->conns_max > 1u << FLEXTOE_CONN_INDEX_BITS)
		return -EINVAL;
	rc = attach_alloc(memory->conns_max, &ft);
	if (rc < 0)
		return rc;
	ft->memory = *memory;
	ft->base = memory->base;
	ft->size = memory->size;
	ft->contexts_max = memory->contexts_max;
	ft->spin_us = memory->spin_us;
	ft->rx_shift = memory->rx_shift;
	ft->tx_shift = memory->tx_shift;
	*out = ft;
	return 0;
}

static void attach_free(struct flextoe *ft)
{
	while (ft->slabs) {
		struct slab *slab = ft->slabs;

		ft->slabs = slab->next;
		munmap(slab, sizeof(*slab));
	}
	munmap(ft->table, ft->conns_max * sizeof(*ft->table));
	if (ft->mapped)
		munmap(ft->base, ft->size);
	if (ft->control_fd >= 0)
		syscall(SYS_close, ft->control_fd);
	pthread_mutex_destroy(&ft->lock);
	free(ft);
}

void flextoe_close(struct flextoe *ft)
{
	attach_free(ft);
}

void attach_forget(struct flextoe *ft)
{
	pthread_mutex_init(&ft->lock, NULL); /* a thread that is not here may have held it */
	attach_free(ft);
}

int attach_hold(const struct flextoe *ft, uint32_t endpoint, const uint32_t token[2])
{
	struct flextoe_msg_hold hold = {.header = header_of(FLEXTOE_MSG_HOLD, sizeof(hold)),
		.endpoint = endpoint,
		.token = {token[0], token[1]}};
	int fd, fds[2], rc;

	if (ft && ft->control_fd < 0)
		return -ENOTSUP;
	fd = channel_connect(socket_path(NULL));
	if (fd < 0)
		return fd;
	rc = channel_request(fd, &hold, sizeof(hold), FLEXTOE_MSG_HOLD, &hold, sizeof(hold), fds);
	if (rc == 0) {
		fds_close(fds, 2);
		return fd;
	}
	syscall(SYS_close, fd);
	return rc;
}

int attach_enter(int hold_fd)
{
	struct flextoe_msg_header message = header_of(FLEXTOE_MSG_ENTER, sizeof(message));
	int fds[2];
	int rc = channel_request(
		hold_fd, &message, sizeof(message), FLEXTOE_MSG_ENTER, &message, sizeof(message), fds);

	if (rc < 0)
		return rc;
	return fds[0] < 0 ? -EPROTO : fds[0];
}

/* ---- contexts ---- */

static int context_request_remote(struct flextoe *ft, uint32_t *number, uint64_t *offset, int fds[2])
{
	struct flextoe_msg_context message = {.header = header_of(FLEXTOE_MSG_CONTEXT, sizeof(message))};
	int rc;

	pthread_mutex_lock(&ft->lock);
	rc = channel_request(ft->control_fd, &message, sizeof(message), FLEXTOE_MSG_CONTEXT, &message,
		sizeof(message), fds);
	pthread_mutex_unlock(&ft->lock);
	if (rc < 0)
		return rc == -EPIPE || rc == -ECONNRESET ? -EIO : rc;
	if (message.number >= ft->contexts_max || fds[0] < 0 || fds[1] < 0) {
		fds_close(fds, 2);
		return -EPROTO;
	}
	syscall(SYS_fcntl, fds[0], F_SETFL, O_NONBLOCK);
	*number = message.number;
	*offset = ft->context_offset + (uint64_t)message.number * sizeof(struct flextoe_context_area);
	return 0;
}

int flextoe_context_open(struct flextoe *ft, struct flextoe_context **out)
{
	struct flextoe_context *ctx;
	int fds[2] = {-1, -1}, rc;
	uint64_t offset = 0;
	uint32_t number = 0;

	if (atomic_load(&ft->dead))
		return -EIO;
	if (ft->channel_shared)
		return -ENOSPC;
	ctx = calloc(1, sizeof(*ctx));
	if (!ctx)
		return -ENOMEM;
	ctx->dirty_size = 256;
	ctx->dirty = malloc(ctx->dirty_size * sizeof(*ctx->dirty));
	if (!ctx->dirty) {
		free(ctx);
		return -ENOMEM;
	}
	if (ft->control_fd >= 0)
		rc = context_request_remote(ft, &number, &offset, fds);
	else
		rc = ft->memory.context_open(ft->memory.arg, &number, &offset, &fds[0], &fds[1]);
	if (rc == 0 && offset + sizeof(struct flextoe_context_area) > ft->size)
		rc = -EPROTO;
	if (rc < 0) {
		free(ctx->dirty);
		free(ctx);
		return rc;
	}
	ctx->ft = ft;
	ctx->number = number;
	ctx->wake_fd = fds[0];
	ctx->doorbell_fd = fds[1];
	ctx->area = (struct flextoe_context_area *)(ft->base + offset);
	ctx->names_free = UINT32_MAX;
	/* A page fault costs more than a hundred messages; failing only costs time. */
	madvise(ctx->area, sizeof(*ctx->area), MADV_POPULATE_WRITE);
	*out = ctx;
	return 0;
}

/*
 * The engine keeps the context's area until the application detaches, so an area is not used twice. What is
 * still open on it is reset then.
 */
void flextoe_context_close(struct flextoe_context *ctx)
{
	struct flextoe *ft = ctx->ft;

	context_flush(ctx);
	for (uint32_t i = 0; i < ctx->names_size; i++)
		if (ctx->names[i].kind == NAME_LISTENER)
			free(ctx->names[i].object);
	pthread_mutex_lock(&ft->lock);
	while (ctx->free) {
		struct flextoe_conn *conn = ctx->free;

		ctx->free = conn->next;
		conn->next = ft->pool;
		ft->pool = conn;
	}
	pthread_mutex_unlock(&ft->lock);
	if (ft->control_fd >= 0) { /* in memory they are the caller's */
		syscall(SYS_close, ctx->wake_fd);
		syscall(SYS_close, ctx->doorbell_fd);
	}
	free(ctx->names);
	free(ctx->queue);
	free(ctx->dirty);
	free(ctx);
}

/* ---- the pool of connections ---- */

static bool pool_grow(struct flextoe *ft)
{
	struct slab *slab =
		mmap(NULL, sizeof(*slab), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (slab == MAP_FAILED)
		return false;
	slab->next = ft->slabs;
	ft->slabs = slab;
	for (uint32_t i = 0; i < SLAB_CONNS; i++) {
		slab->conn[i].handle = FLEXTOE_CONN_NONE;
		slab->conn[i].next = ft->pool;
		ft->pool = &slab->conn[i];
	}
	return true;
}

struct flextoe_conn *attach_conn_batch(struct flextoe *ft)
{
	struct flextoe_conn *batch = NULL;

	pthread_mutex_lock(&ft->lock);
	for (uint32_t i = 0; i < BATCH_CONNS; i++) {
		struct flextoe_conn *conn;

		if (!ft->pool && !pool_grow(ft))
			break;
		conn = ft->pool;
		ft->pool = conn->next;
		conn->next = batch;
		batch = conn;
	}
	pthread_mutex_unlock(&ft->lock);
	return batch;
}
