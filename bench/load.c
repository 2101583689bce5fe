// SPDX-License-Identifier: BSD-3-Clause
/*
 * ft-load: arguments, clocks, the result line. See load.h.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "bench/load.h"
#include "core/platform.h"

static double clock_s(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

double load_now_s(void)
{
	return clock_s(CLOCK_MONOTONIC);
}

double load_cpu_s(void)
{
	return clock_s(CLOCK_PROCESS_CPUTIME_ID);
}

void load_begin(void)
{
	puts("begin");
	fflush(stdout);
}

int load_connect(const struct load_options *options, bool wait)
{
	int one = 1, err = 0;
	socklen_t len = sizeof(err);
	struct pollfd p;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (connect(fd, (const struct sockaddr *)&options->server, sizeof(options->server)) == 0)
		return fd;
	if (errno != EINPROGRESS) {
		err = errno;
	} else if (wait) {
		p = (struct pollfd){.fd = fd, .events = POLLOUT};
		if (poll(&p, 1, 10000) != 1)
			err = ETIMEDOUT;
		else
			getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len);
	}
	if (err) {
		close(fd);
		return -err;
	}
	return fd;
}

static void usage(FILE *out)
{
	fprintf(out,
		"usage: ft-load echo|memcached|connrate|send|receive|hold --server ADDRESS:PORT [options]\n\n"
		"  echo       requests of --size bytes, --pipeline of them under way on each of "
		"--connections\n"
		"  memcached  the text protocol: --get-percent gets, the rest sets, values of --size bytes\n"
		"  connrate   opens a connection, one echo, closes; --connections at a time\n"
		"  send       sends as fast as it can over --connections (to ft-echo --mode sink)\n"
		"  receive    receives as fast as it can (from ft-echo --mode source)\n"
		"  hold       opens --connections, one echo on each, says \"begin\", holds them until end of "
		"input\n\n"
		"  --connections N  (1)    --pipeline N (1)    --size BYTES (64; memcached 100)\n"
		"  --keys N (10000)        --get-percent N (90)\n"
		"  --warmup S (0.5)        --seconds S (2)\n");
}

static int parse_server(const char *text, struct sockaddr_in *out)
{
	char host[64];
	const char *colon = strrchr(text, ':');

	if (!colon || (size_t)(colon - text) >= sizeof(host))
		return -1;
	memcpy(host, text, (size_t)(colon - text));
	host[colon - text] = 0;
	out->sin_family = AF_INET;
	out->sin_port = htons((uint16_t)atoi(colon + 1));
	return inet_pton(AF_INET, host, &out->sin_addr) == 1 ? 0 : -1;
}

static double cycles_per_us(void)
{
	double t0 = load_now_s(), t1;
	uint64_t c0 = cycles_now();

	do {
		t1 = load_now_s();
	} while (t1 - t0 < 0.02);
	return (double)(cycles_now() - c0) / ((t1 - t0) * 1e6);
}

static void print_result(const struct load_result *r)
{
	double per_us = cycles_per_us();

	printf("{\"operations\":%llu,\"bytes\":%llu,\"seconds\":%.6f,\"cpu_seconds\":%.6f,\"rate\":%.3f,"
	       "\"p50_us\":%.3f,\"p99_us\":%.3f,\"p99.9_us\":%.3f,\"tsc_hz\":%.0f}\n",
		(unsigned long long)r->operations, (unsigned long long)r->bytes, r->seconds, r->cpu_seconds,
		(double)r->operations / r->seconds, histogram_quantile(r->latency, 0.5) / per_us,
		histogram_quantile(r->latency, 0.99) / per_us, histogram_quantile(r->latency, 0.999) / per_us,
		per_us * 1e6);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	static const struct option names[] = {{"server", 1, NULL, 's'}, {"connections", 1, NULL, 'c'},
		{"pipeline", 1, NULL, 'p'}, {"size", 1, NULL, 'b'}, {"keys", 1, NULL, 'k'},
		{"get-percent", 1, NULL, 'g'}, {"warmup", 1, NULL, 'w'}, {"seconds", 1, NULL, 't'},
		{"help", 0, NULL, 'h'}, {NULL, 0, NULL, 0}};
	static struct histogram latency;
	struct load_options o = {.connections = 1,
		.pipeline = 1,
		.keys = 10000,
		.get_percent = 90,
		.warmup_s = 0.5,
		.seconds = 2};
	struct load_result result = {.latency = &latency};
	static struct workload w = {.random = 0x9e3779b97f4a7c15u};
	struct rlimit files;
	const char *mode;
	bool have_server = false;
	int c, err;

	while ((c = getopt_long(argc, argv, "h", names, NULL)) != -1) {
		switch (c) {
		case 's':
			have_server = parse_server(optarg, &o.server) == 0;
			break;
		case 'c':
			o.connections = (unsigned)atoi(optarg);
			break;
		case 'p':
			o.pipeline = (unsigned)atoi(optarg);
			break;
		case 'b':
			o.size = (unsigned)atoi(optarg);
			break;
		case 'k':
			o.keys = (unsigned)atoi(optarg);
			break;
		case 'g':
			o.get_percent = (unsigned)atoi(optarg);
			break;
		case 'w':
			o.warmup_s = atof(optarg);
			break;
		case 't':
			o.seconds = atof(optarg);
			break;
		case 'h':
			usage(stdout);
			return 0;
		default:
			usage(stderr);
			return 2;
		}
	}
	if (optind + 1 != argc || !have_server || o.connections == 0 || o.pipeline == 0 || o.keys == 0) {
		usage(stderr);
		return 2;
	}
	mode = argv[optind];
	if (o.size == 0)
		o.size = strcmp(mode, "memcached") == 0 ? 100 : 64;
	signal(SIGPIPE, SIG_IGN);
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}

	if (strcmp(mode, "memcached") == 0)
		err = workload_memcached(&w, &o);
	else
		err = workload_echo(&w, &o);
	if (err)
		return 1;
	if (strcmp(mode, "echo") == 0 || strcmp(mode, "memcached") == 0) {
		err = load_run_exchanges(&o, &w, &result);
	} else if (strcmp(mode, "connrate") == 0) {
		err = load_run_connrate(&o, &w, &result);
	} else if (strcmp(mode, "send") == 0) {
		err = load_run_send(&o, &result);
	} else if (strcmp(mode, "receive") == 0) {
		err = load_run_receive(&o, &result);
	} else if (strcmp(mode, "hold") == 0) {
		return load_run_hold(&o, &w) ? 1 : 0;
	} else {
		usage(stderr);
		return 2;
	}
	if (err)
		return 1;
	print_result(&result);
	return 0;
}
