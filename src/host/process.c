/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the POSIX layer has once in a process: the attachment to the engine, made at the first TCP socket;
 * what fork() leaves behind; and the list of things applications asked for that are not supported.
 */
#include "host/posix.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

struct process process = {.placeholder_fd = -1};

#define UNSUPPORTED_MAX 64
static struct {
	const char *name;
	long value;
	unsigned long count;
} unsupported_list[UNSUPPORTED_MAX];
static struct mutex unsupported_lock;

/* ---- fork ---- */

static unsigned fork_lanes; /* locked around fork() */

static void fork_prepare(void)
{
	fork_lanes = process.lane_count;
	for (unsigned i = 0; i < fork_lanes; i++)
		mutex_lock(&process.lane[i].lock);
	mutex_lock(&process.lock);
	if (atomic_load(&process.state) == PROCESS_ATTACHED) {
		kept_prepare();
		heir_prepare();
	}
}

static void fork_parent(void)
{
	heir_parent();
	mutex_unlock(&process.lock);
	for (unsigned i = 0; i < fork_lanes; i++)
		mutex_unlock(&process.lane[i].lock);
}

/* Nothing of the parent's is the child's; its own first socket attaches it anew. */
static void child_detach(void)
{
	for (unsigned i = 0; i < process.lane_count; i++) {
		syscall(SYS_close, process.lane[i].ctx->wake_fd);
		syscall(SYS_close, process.lane[i].ctx->doorbell_fd);
	}
	attach_forget(process.ft);
	syscall(SYS_close, process.placeholder_fd);
	fdtable_forget();
	memset(process.lane, 0, sizeof(process.lane));
	process.ft = NULL;
	process.placeholder_fd = -1;
	process.lane_count = 0;
	process.pid = 0;
	atomic_store(&process.state, PROCESS_NEW);
}

/*
 * A child keeps what was connected (heir.c); without connections it starts anew. Listeners are kept in either
 * case (kept.c). Descriptors of everything else are placeholders there.
 */
static void fork_child(void)
{
	atomic_store(&process.lock.word, 0);
	atomic_store(&unsupported_lock.word, 0);
	for (unsigned i = 0; i < LANES_MAX; i++) {
		atomic_store(&process.lane[i].lock.word, 0);
		process.lane[i].waiters = NULL;
		process.lane[i].users = 0;
	}
	if (atomic_load(&process.state) != PROCESS_ATTACHED)
		return;
	if (heir_child()) {
		process.pid = (pid_t)syscall(SYS_getpid);
		process.ft->channel_shared = true;
	} else {
		child_detach();
	}
}

/* A process that ends without closing: the engine hears of it at once only if no other has the channel. */
static atomic_bool exiting;

bool process_is_exiting(void)
{
	return atomic_load_explicit(&exiting, memory_order_relaxed);
}

void process_exit(void)
{
	atomic_store_explicit(&exiting, true, memory_order_relaxed);
	if (heir_own_lane() && process_is_self())
		fdtable_close_range(0, ~0u);
}

/* ---- attaching ---- */

/* Remembered: a program that writes its title overwrites the name. */
static const char *program_name(void)
{
	static char name[32];

	if (!name[0] && program_invocation_short_name)
		snprintf(name, sizeof(name), "%s", program_invocation_short_name);
	return name;
}

static bool environment_is_set(const char *name)
{
	const char *value = getenv(name);

	return value && *value && strcmp(value, "0") != 0;
}

static void warn(const char *what, const char *why)
{
	char line[512];
	int n = snprintf(
		line, sizeof(line), "flextoe: %s%s%s\n", what, why && *why ? ": " : "", why ? why : "");

	if (n > 0 && write(STDERR_FILENO, line, (size_t)n < sizeof(line) ? (size_t)n : sizeof(line) - 1) < 0)
		return;
}

static void unsupported_print(void *arg, const char *name, long value, unsigned long count)
{
	(void)arg;
	fprintf(stderr, "flextoe: not supported: %s %ld, asked for %lu times\n", name, value, count);
}

static void at_exit(void)
{
	process_exit();
	if (process_is_self() && environment_is_set("FLEXTOE_DEBUG"))
		unsupported_each(unsupported_print, NULL);
}

void process_hooks(void)
{
	static bool hooked;

	if (hooked)
		return;
	hooked = true;
	pthread_atfork(fork_prepare, fork_parent, fork_child);
	atexit(at_exit);
}

/* The process is locked. */
static enum process_state attach_locked(void)
{
	bool required = environment_is_set("FLEXTOE_REQUIRE");
	struct flextoe *ft = NULL;
	int rc;

	process_hooks();
	rc = fdtable_init();
	if (rc == 0)
		rc = flextoe_open(NULL, program_name(), &ft);
	if (rc == -EACCES || rc == -ENOENT) { /* it has given up its rights, or its root directory */
		int channel = kept_channel();

		if (channel >= 0)
			rc = attach_over(channel, program_name(), &ft);
	}
	__atomic_store_n(&process.ft, ft, __ATOMIC_RELEASE); /* whole: others look without a lock */
	if (rc == 0) {
		process.placeholder_fd = (int)syscall(SYS_socket, AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (process.placeholder_fd < 0) {
			rc = -errno;
			flextoe_close(process.ft);
			process.ft = NULL;
		}
	}
	if (rc < 0) {
		const char *why = *attach_error_text() ? attach_error_text() : strerror(-rc);

		if (required) {
			warn("no engine, and FLEXTOE_REQUIRE is set: sockets fail", why);
			return PROCESS_REFUSED;
		}
		warn("no engine, using the kernel's TCP", why);
		return PROCESS_KERNEL;
	}
	process.pid = (pid_t)syscall(SYS_getpid);
	return PROCESS_ATTACHED;
}

enum process_state process_attach(void)
{
	enum process_state state = atomic_load(&process.state);

	if (likely(state != PROCESS_NEW))
		return state;
	mutex_lock(&process.lock);
	state = atomic_load(&process.state);
	if (state == PROCESS_NEW) {
		state = attach_locked();
		atomic_store(&process.state, state);
	}
	mutex_unlock(&process.lock);
	return state;
}

bool process_is_self(void)
{
	return process.pid && process.pid == (pid_t)syscall(SYS_getpid);
}

bool process_owns(uint32_t addr)
{
	const struct flextoe_msg_welcome *welcome = &process.ft->welcome;

	for (unsigned i = 0; i < welcome->address_count; i++)
		if (welcome->address[i].addr == addr)
			return true;
	return false;
}

bool process_serves(uint32_t addr)
{
	const struct flextoe_msg_welcome *welcome = &process.ft->welcome;
	uint32_t host = ntohl(addr);

	if (host >> 24 == 127 || host == INADDR_ANY || host == INADDR_BROADCAST || IN_MULTICAST(host))
		return false;
	if (welcome->all_routes)
		return true;
	for (unsigned i = 0; i < welcome->address_count; i++) {
		uint32_t len = welcome->address[i].prefix_len;
		uint32_t mask = len == 0 ? 0 : len >= 32 ? UINT32_MAX : ~(UINT32_MAX >> len);

		if (((host ^ ntohl(welcome->address[i].addr)) & mask) == 0)
			return true;
	}
	return false;
}

uint64_t deadline_after_us(uint64_t us)
{
	uint64_t now = clock_us();

	return us > DEADLINE_NEVER - 1 - now ? DEADLINE_NEVER - 1 : now + us;
}

uint64_t deadline_after_ms(int64_t ms)
{
	if (ms < 0)
		return DEADLINE_NEVER;
	return ms == 0 ? 0 : deadline_after_us((uint64_t)ms * 1000);
}

/* ---- what is not supported ---- */

void unsupported(const char *name, long value)
{
	mutex_lock(&unsupported_lock);
	for (unsigned i = 0; i < UNSUPPORTED_MAX; i++) {
		if (!unsupported_list[i].name) {
			unsupported_list[i].name = name;
			unsupported_list[i].value = value;
		}
		if (strcmp(unsupported_list[i].name, name) == 0 && unsupported_list[i].value == value) {
			unsupported_list[i].count++;
			break;
		}
	}
	mutex_unlock(&unsupported_lock);
}

void unsupported_each(void (*print)(void *arg, const char *name, long value, unsigned long count), void *arg)
{
	for (unsigned i = 0; i < UNSUPPORTED_MAX && unsupported_list[i].name; i++)
		print(arg, unsupported_list[i].name, unsupported_list[i].value, unsupported_list[i].count);
}
