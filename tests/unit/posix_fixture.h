/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A process whose sockets go through the POSIX layer to a fake engine in a thread. preload.c is linked into
 * the test, so the tests are written with libc's names.
 */
#ifndef TESTS_POSIX_FIXTURE_H
#define TESTS_POSIX_FIXTURE_H

#include <arpa/inet.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <cmocka.h>

#include "fake_engine.h"
#include "host/posix.h"

static struct fake_engine *engine;

static int engine_setup(void **state)
{
	struct flextoe_memory memory;

	(void)state;
	engine = fake_engine_create(true);
	memory = fake_engine_memory(engine);
	assert_int_equal(fdtable_init(), 0);
	assert_int_equal(flextoe_attach_memory(&memory, &process.ft), 0);
	process.ft->welcome.address_count = 1;
	process.ft->welcome.address[0].addr = FAKE_ADDRESS;
	process.ft->welcome.address[0].prefix_len = 24;
	process.placeholder_fd = (int)syscall(SYS_socket, AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	process_hooks();
	process.pid = getpid();
	atomic_store(&process.state, PROCESS_ATTACHED);
	fake_engine_start(engine);
	return 0;
}

static int engine_teardown(void **state)
{
	(void)state;
	fake_engine_stop(engine);
	assert_int_equal(fake_engine_violations(engine), 0);
	return 0;
}

static struct sockaddr_in address(uint32_t addr, uint16_t port)
{
	return (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = addr, .sin_port = port};
}

#define SA(a) ((struct sockaddr *)&(a))

/* A listener on the engine's address; its port in *port. */
static inline int listener_open(uint16_t *port, int type)
{
	struct sockaddr_in at = address(FAKE_ADDRESS, 0);
	socklen_t len = sizeof(at);
	int fd = socket(AF_INET, SOCK_STREAM | type, 0);

	assert_true(fd >= 0);
	assert_int_equal(bind(fd, SA(at), sizeof(at)), 0);
	assert_int_equal(listen(fd, 16), 0);
	assert_int_equal(getsockname(fd, SA(at), &len), 0);
	assert_int_equal(at.sin_addr.s_addr, FAKE_ADDRESS);
	assert_int_not_equal(at.sin_port, 0);
	*port = at.sin_port;
	return fd;
}

static inline int client_open(uint16_t port)
{
	struct sockaddr_in to = address(FAKE_ADDRESS, port);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	assert_int_equal(connect(fd, SA(to), sizeof(to)), 0);
	return fd;
}

/* Two ends of a connection. */
static inline void pair_open(int fd[2])
{
	uint16_t port;
	int listener = listener_open(&port, 0);

	fd[0] = client_open(port);
	fd[1] = accept(listener, NULL, NULL);
	assert_true(fd[1] >= 0);
	assert_non_null(offloaded_of(fd[0]));
	assert_non_null(offloaded_of(fd[1]));
	assert_int_equal(close(listener), 0);
}

static inline void pair_close(int fd[2])
{
	close(fd[0]);
	close(fd[1]);
}

#define assert_fails(call, error)                                                                            \
	do {                                                                                                 \
		errno = 0;                                                                                   \
		assert_int_equal(call, -1);                                                                  \
		assert_int_equal(errno, error);                                                              \
	} while (0)

#endif
