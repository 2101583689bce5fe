/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Listeners that outlive fork() and exec(), and go from process to process: as in the kernel, whoever has the
 * descriptor may accept. What names a listener at the engine, and the token that permits to join it, are kept
 * in the kernel's socket behind the descriptor, as constants of a socket filter that lets everything pass: so
 * they are wherever the descriptor is. A hidden descriptor beside it, a channel to the engine, says that some
 * process still has the listener; it is passed on and closed as the listener's is.
 *
 * A process that finds such a descriptor keeps it aside (FILE_KEPT) and comes to the engine for it only when
 * it uses it; when it first waits for connections, it joins. From then on it asks for connections: for one at
 * a time when others may accept too, whenever it waits and has none.
 */
#include "host/posix.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MARK_MAGIC    0xf1e870e1u
#define MARK_IPV6     0x80000000u
#define MARK_NONBLOCK 0x40000000u
#define MARK_HOLD     0x3fffffffu /* the hidden descriptor's number; all ones: none */
enum mark_word {
	MARK_WORD_MAGIC,
	MARK_WORD_ENDPOINT,
	MARK_WORD_TOKEN0,
	MARK_WORD_TOKEN1,
	MARK_WORD_REST,
	MARK_WORDS
};

/* ---- the mark in the kernel's socket ---- */

static void mark_write(const struct socket *s, int fd)
{
	uint32_t rest = (s->domain_is_ipv6 ? MARK_IPV6 : 0) | (s->nonblock ? MARK_NONBLOCK : 0) |
			((uint32_t)s->hold_fd & MARK_HOLD);
	const uint32_t words[MARK_WORDS] = {MARK_MAGIC, s->endpoint, s->token[0], s->token[1], rest};
	struct sock_filter code[MARK_WORDS + 1];
	struct sock_fprog program = {.len = MARK_WORDS + 1, .filter = code};

	for (unsigned i = 0; i < MARK_WORDS; i++)
		code[i] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_IMM, words[i]);
	code[MARK_WORDS] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, UINT32_MAX);
	if (syscall(SYS_setsockopt, fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) < 0)
		unsupported("listener for other programs: SO_ATTACH_FILTER", errno);
}

static bool mark_read(int fd, uint32_t words[MARK_WORDS])
{
	struct sock_filter code[MARK_WORDS + 1];
	socklen_t len = MARK_WORDS + 1; /* in instructions */

	if (syscall(SYS_getsockopt, fd, SOL_SOCKET, SO_GET_FILTER, code, &len) < 0 || len != MARK_WORDS + 1)
		return false;
	for (unsigned i = 0; i < MARK_WORDS; i++) {
		if (code[i].code != (BPF_LD | BPF_IMM))
			return false;
		words[i] = code[i].k;
	}
	return words[MARK_WORD_MAGIC] == MARK_MAGIC;
}

/* ---- a listener begins to be one that can be kept ---- */

void kept_begin(struct socket *s, int fd)
{
	long flags;

	if (s->hold_fd < 0) {
		s->hold_fd = attach_hold(process.ft, s->endpoint, s->token);
		if (s->hold_fd < 0) {
			unsupported("listener for other processes: no channel", -s->hold_fd);
			s->hold_fd = -1;
			return;
		}
		fdtable_hide(s->hold_fd);
	}
	flags = syscall(SYS_fcntl, fd, F_GETFD);
	kept_cloexec(s, flags < 0 || (flags & FD_CLOEXEC));
	mark_write(s, fd);
}

void kept_cloexec(struct socket *s, bool on)
{
	if (s->hold_fd >= 0)
		syscall(SYS_fcntl, s->hold_fd, F_SETFD, on ? FD_CLOEXEC : 0);
}

void kept_nonblock_changed(struct socket *s, int fd)
{
	if (s->hold_fd >= 0 && s->state == SOCKET_LISTENING)
		mark_write(s, fd);
}

/* ---- fork ---- */

/* The parent may never wait for connections again: what it has asked for it asks for once more when it does.
 */
void kept_prepare(void)
{
	for (int fd = 0; fd < fdtable_used; fd++) {
		struct socket *s = socket_here(fd);

		if (!s || s->state != SOCKET_LISTENING)
			continue;
		s->shared = true;
		listener_ask_no_more(s);
		if (s->waiting)
			listener_ask(s);
		if (s->lane->waiters) /* other threads, in poll() or epoll_wait() */
			lane_wake(s->lane);
	}
}

bool kept_child(struct socket *s, struct lane *lane)
{
	if (s->state != SOCKET_LISTENING || s->hold_fd < 0)
		return false;
	s->file.kind = lane ? FILE_SOCKET : FILE_KEPT;
	s->lane = lane;
	s->listener = NULL; /* the parent's, as what waits in its queue */
	s->accept_head = NULL;
	s->accept_tail = &s->accept_head;
	s->accept_count = 0;
	s->items = NULL;
	s->waiting = 0;
	s->joining = s->answered = false;
	s->shared = true;
	return true;
}

/* ---- a process comes for it ---- */

struct socket *kept_revive(struct socket *s)
{
	struct lane *lane;

	if (process_attach() != PROCESS_ATTACHED)
		return NULL;
	lane = lane_mine();
	if (!lane)
		return NULL;
	mutex_lock(&process.lock);
	if (s->file.kind == FILE_KEPT) {
		__atomic_store_n(&s->lane, lane, __ATOMIC_RELEASE);
		__atomic_store_n(&s->file.kind, FILE_SOCKET, __ATOMIC_RELEASE);
	}
	mutex_unlock(&process.lock);
	return s;
}

int kept_channel(void)
{
	for (int fd = 0; fd < fdtable_used; fd++) {
		struct file *file = file_of(fd);

		if (file && file->kind == FILE_KEPT && ((struct socket *)file)->hold_fd >= 0)
			return attach_enter(((struct socket *)file)->hold_fd);
	}
	return -ENOENT;
}

static bool is_channel(int fd)
{
	int domain = 0, type = 0;
	socklen_t len = sizeof(int);

	return syscall(SYS_getsockopt, fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 && domain == AF_UNIX &&
	       syscall(SYS_getsockopt, fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0 && type == SOCK_SEQPACKET;
}

/* Takes a descriptor that another program has left or sent us, if it is a listener of the engine's. */
void kept_adopt(int fd, bool same_numbers)
{
	uint32_t words[MARK_WORDS], hold;
	int listens = 0;
	socklen_t len = sizeof(listens);
	struct sockaddr_in6 name;
	struct socket *s;

	if ((file_of(fd) && same_numbers) || !mark_read(fd, words) || fdtable_init() < 0)
		return;
	s = socket_alloc(NULL);
	if (!s)
		return;
	s->file.kind = FILE_KEPT;
	s->state = SOCKET_LISTENING;
	s->fd = fd;
	s->backlog = 1;
	s->shared = true;
	s->endpoint = words[MARK_WORD_ENDPOINT];
	s->token[0] = words[MARK_WORD_TOKEN0];
	s->token[1] = words[MARK_WORD_TOKEN1];
	s->domain_is_ipv6 = (words[MARK_WORD_REST] & MARK_IPV6) != 0;
	s->nonblock = (words[MARK_WORD_REST] & MARK_NONBLOCK) != 0;
	if (syscall(SYS_getsockopt, fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len) == 0 && listens) {
		s->any = s->kernel_bound = true;
		len = sizeof(name);
		if (syscall(SYS_getsockname, fd, &name, &len) == 0)
			s->local.sin_port = name.sin6_port; /* of an IPv4 name too */
	}
	hold = words[MARK_WORD_REST] & MARK_HOLD;
	if (same_numbers && hold != MARK_HOLD && is_channel((int)hold))
		s->hold_fd = (int)hold;
	else
		s->hold_fd = attach_hold(NULL, s->endpoint, s->token);
	if (s->hold_fd >= 0)
		fdtable_hide(s->hold_fd);
	if (!fdtable_set(fd, &s->file))
		kept_drop(s);
}

void kept_displaced(int hidden)
{
	for (int fd = 0; fd < fdtable_used; fd++) {
		struct file *file = file_of(fd);

		if (file && (file->kind == FILE_SOCKET || file->kind == FILE_KEPT) &&
			((struct socket *)file)->hold_fd == hidden)
			((struct socket *)file)->hold_fd = -1;
	}
}

void kept_end(struct socket *s)
{
	if (s->hold_fd >= 0)
		fdtable_hidden_close(s->hold_fd);
	s->hold_fd = -1;
	s->endpoint = 0;
}

void kept_drop(struct socket *s)
{
	kept_end(s);
	socket_free(s);
}

/* At the start of a program: what it was given by the one before it. */
void kept_scan(void)
{
	DIR *dir = opendir("/proc/self/fd");
	struct dirent *entry;

	if (!dir)
		return;
	while ((entry = readdir(dir)))
		if (entry->d_name[0] != '.')
			kept_adopt(atoi(entry->d_name), true);
	closedir(dir);
}

/* ---- joining, and asking for connections; the lane is locked ---- */

bool listener_needs(const struct socket *s)
{
	const struct flextoe_listener *listener = __atomic_load_n(&s->listener, __ATOMIC_ACQUIRE);

	if (__atomic_load_n(&s->state, __ATOMIC_ACQUIRE) != SOCKET_LISTENING)
		return false;
	if (!listener)
		return s->endpoint && !s->joining;
	return listener->limit == listener->received && !s->accept_head;
}

void listener_ask(struct socket *s)
{
	struct flextoe_listener *listener = s->listener;
	uint32_t most = s->shared ? 1 : (uint32_t)s->backlog, more;

	if (s->state != SOCKET_LISTENING || !listener || s->accept_count >= most)
		return;
	more = listener->received + most - s->accept_count - listener->limit;
	if ((int32_t)more > (int32_t)(s->shared ? 0 : most / 2)) {
		listener_want(listener, listener->limit + more);
		context_flush(listener->ctx);
	}
}

void listener_ask_no_more(struct socket *s)
{
	struct flextoe_listener *listener = s->listener;

	if (s->state != SOCKET_LISTENING || !s->shared || !listener || listener->limit == listener->received)
		return;
	listener_want(listener, listener->received);
	context_flush(listener->ctx);
}

int listener_ready(struct socket *s, struct lane **lane)
{
	struct flextoe_listener *listener = NULL;
	int rc;

	if (s->state != SOCKET_LISTENING)
		return -EINVAL;
	if (s->listener) {
		listener_ask(s);
		return 0;
	}
	if (!s->endpoint || s->joining)
		return -EAGAIN;
	s->joining = true;
	s->answered = false;
	rc = listener_join((*lane)->ctx, s->endpoint, s->token, s, &listener);
	if (rc == 0)
		rc = socket_answer(s, lane);
	if (!*lane)
		return rc; /* it was closed meanwhile */
	s->joining = false;
	if (rc < 0) {
		if (listener)
			flextoe_listener_close(listener);
		unsupported("listener of another process: it cannot be joined", -rc);
		s->endpoint = 0; /* the kernel's half alone */
		return rc;
	}
	flextoe_listener_address(listener, &s->local);
	__atomic_store_n(&s->listener, listener, __ATOMIC_RELEASE);
	listener_ask(s);
	return 0;
}

void listener_visit(struct socket *s)
{
	struct lane *lane;

	if (!listener_needs(s))
		return;
	lane = socket_lock(s, -1);
	if (!lane)
		return;
	if (s->listener)
		lane_drain(lane);
	if (listener_needs(s))
		listener_ready(s, &lane);
	socket_unlock(lane);
}
