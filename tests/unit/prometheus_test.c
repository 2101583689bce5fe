/* SPDX-License-Identifier: BSD-3-Clause */
/* The Prometheus page: right requests, wrong ones, slow and many clients; over a UNIX socket. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon/prometheus.h"

static struct prometheus *prom;
static char path[64];
static size_t page_bytes;

static void page(void *arg, FILE *out)
{
	(void)arg;
	for (size_t i = 0; i < page_bytes; i++)
		fputc('p', out);
}

static int setup(void **state)
{
	char err[256];

	(void)state;
	snprintf(path, sizeof(path), "/tmp/flextoe-prom-%d.sock", getpid());
	page_bytes = 10;
	return prometheus_open(path, page, NULL, &prom, err);
}

static int teardown(void **state)
{
	(void)state;
	prometheus_close(prom);
	assert_int_not_equal(access(path, F_OK), 0);
	return 0;
}

static int dial(void)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);

	strcpy(un.sun_path, path);
	assert_int_equal(connect(fd, (struct sockaddr *)&un, sizeof(un)), 0);
	prometheus_poll(prom);
	return fd;
}

/* Sends and polls until the other end closes; returns the bytes that came. */
static size_t ask(int fd, const char *request, char *answer, size_t room)
{
	size_t got = 0;

	assert_int_equal(send(fd, request, strlen(request), MSG_NOSIGNAL), (ssize_t)strlen(request));
	for (unsigned i = 0; i < 100000; i++) {
		ssize_t n;

		prometheus_poll(prom);
		n = recv(fd, answer + got, room - 1 - got, 0);
		if (n == 0 || (n < 0 && errno != EAGAIN))
			break;
		if (n > 0)
			got += (size_t)n;
	}
	answer[got] = '\0';
	close(fd);
	return got;
}

static void pages_and_refusals(void **state)
{
	static char answer[8192];

	(void)state;
	ask(dial(), "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", answer, sizeof(answer));
	assert_non_null(strstr(answer, "HTTP/1.1 200 OK\r\n"));
	assert_non_null(strstr(answer, "Content-Length: 10\r\n"));
	assert_non_null(strstr(answer, "\r\n\r\npppppppppp"));
	ask(dial(), "HEAD /metrics HTTP/1.1\r\n\r\n", answer, sizeof(answer));
	assert_non_null(strstr(answer, "200 OK"));
	assert_null(strstr(answer, "ppp"));
	ask(dial(), "GET / HTTP/1.1\r\n\r\n", answer, sizeof(answer));
	assert_non_null(strstr(answer, "404"));
	ask(dial(), "GET /metricsx HTTP/1.1\r\n\r\n", answer, sizeof(answer));
	assert_non_null(strstr(answer, "404"));
	ask(dial(), "POST /metrics HTTP/1.1\r\n\r\n", answer, sizeof(answer));
	assert_non_null(strstr(answer, "405"));
	ask(dial(), "\r\n\r\n", answer, sizeof(answer));
	assert_non_null(strstr(answer, "405"));
}

static void a_request_in_pieces(void **state)
{
	char answer[512];
	int fd = dial();

	(void)state;
	assert_int_equal(send(fd, "GET /met", 8, 0), 8);
	prometheus_poll(prom);
	ask(fd, "rics HTTP/1.0\r\n\r\n", answer, sizeof(answer));
	assert_non_null(strstr(answer, "200 OK"));
}

static void a_page_larger_than_the_socket(void **state)
{
	static char answer[4u << 20];

	(void)state;
	page_bytes = 3u << 20;
	assert_true(ask(dial(), "GET /metrics HTTP/1.1\r\n\r\n", answer, sizeof(answer)) > page_bytes);
}

static void an_endless_request_is_cut_off(void **state)
{
	char answer[64];
	static char request[4097];

	(void)state;
	memset(request, 'x', sizeof(request) - 1);
	assert_int_equal(ask(dial(), request, answer, sizeof(answer)), 0);
}

static void idle_clients_make_room(void **state)
{
	char answer[512];
	int idle[20];

	(void)state;
	for (unsigned i = 0; i < 20; i++)
		idle[i] = dial();
	ask(dial(), "GET /metrics HTTP/1.1\r\n\r\n", answer, sizeof(answer));
	assert_non_null(strstr(answer, "200 OK"));
	for (unsigned i = 0; i < 20; i++)
		close(idle[i]);
}

static void wrong_places(void **state)
{
	struct prometheus *other;
	char err[256];

	(void)state;
	assert_true(prometheus_open("127.0.0.1", page, NULL, &other, err) < 0);
	assert_non_null(strstr(err, "127.0.0.1:9199"));
	assert_true(prometheus_open("127.0.0.1:70000", page, NULL, &other, err) < 0);
	assert_true(prometheus_open("/nonexistent/x.sock", page, NULL, &other, err) < 0);
	assert_true(prometheus_open(path, page, NULL, &other, err) < 0); /* served already */
	assert_non_null(strstr(err, path));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(pages_and_refusals, setup, teardown),
		cmocka_unit_test_setup_teardown(a_request_in_pieces, setup, teardown),
		cmocka_unit_test_setup_teardown(a_page_larger_than_the_socket, setup, teardown),
		cmocka_unit_test_setup_teardown(an_endless_request_is_cut_off, setup, teardown),
		cmocka_unit_test_setup_teardown(idle_clients_make_room, setup, teardown),
		cmocka_unit_test_setup_teardown(wrong_places, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
