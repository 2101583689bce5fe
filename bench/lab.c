// SPDX-License-Identifier: BSD-3-Clause
/*
 * The laboratory: namespaces, links, processes. Single-threaded. Children die with us (PR_SET_PDEATHSIG), and
 * a guardian process that waits for our end of a pipe to close takes the namespaces away, so that nothing is
 * left behind whichever way a benchmark ends.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <arpa/inet.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/lab.h"
#include "core/platform.h"

extern char **environ;

const struct lab_link lab_tap = {.suffix = "", .mtu = 1500};
const struct lab_link lab_afxdp = {.suffix = "-afxdp", .afxdp = true, .mtu = 1500};
const struct lab_link lab_afxdp_generic = {
	.suffix = "-afxdp-generic", .afxdp = true, .generic = true, .mtu = 1500};
const struct lab_link lab_afxdp_jumbo = {.suffix = "-afxdp-jumbo", .afxdp = true, .mtu = 65535};

static int lab_fail(const char *what, int err)
{
	fprintf(stderr, "flextoe bench: %s: %s\n", what, strerror(err));
	return -err;
}

/* Runs `ip` with the words of a line; quiet ones do not complain. */
static int run_line(bool quiet, char *line)
{
	char *words[48], *save = NULL;
	posix_spawn_file_actions_t files;
	unsigned n = 0;
	pid_t pid;
	int status, err;

	for (char *w = strtok_r(line, " ", &save); w && n < 47; w = strtok_r(NULL, " ", &save))
		words[n++] = w;
	words[n] = NULL;
	posix_spawn_file_actions_init(&files);
	if (quiet)
		posix_spawn_file_actions_addopen(&files, 2, "/dev/null", O_WRONLY, 0);
	err = posix_spawnp(&pid, words[0], &files, NULL, words, environ);
	posix_spawn_file_actions_destroy(&files);
	if (err)
		return lab_fail(words[0], err);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EIO;
}

static int run_ip(bool quiet, const char *format, ...) __attribute__((format(printf, 2, 3)));
static int run_ip(bool quiet, const char *format, ...)
{
	char line[512];
	va_list args;

	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	return run_line(quiet, line);
}

int lab_run(const char *format, ...)
{
	char line[512];
	va_list args;

	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	return run_line(false, line);
}

void lab_tap_name(char *name, size_t size)
{
	snprintf(name, size, "ftb%d", (int)getpid());
}

/* ---- processes ---- */

static int enter_netns(const char *name)
{
	char path[128];
	int fd, err = 0;

	snprintf(path, sizeof(path), "/run/netns/%s", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || setns(fd, CLONE_NEWNET) != 0)
		err = -errno;
	if (fd >= 0)
		close(fd);
	return err;
}

static void child_exec(const char *netns, int cpu, const char *const *argv, int out, int in)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	dup2(in, 0);
	dup2(out, 1);
	if (netns && enter_netns(netns) != 0) {
		fprintf(stderr, "flextoe bench: cannot enter the namespace %s\n", netns);
		_exit(126);
	}
	if (cpu >= 0) {
		cpu_set_t set;

		CPU_ZERO(&set);
		CPU_SET(cpu, &set);
		sched_setaffinity(0, sizeof(set), &set);
	}
	execvp(argv[0], (char *const *)(uintptr_t)argv);
	fprintf(stderr, "flextoe bench: cannot run %s: %s\n", argv[0], strerror(errno));
	_exit(127);
}

struct lab_child *lab_spawn(struct lab *lab, const char *netns, int cpu, const char *const *argv)
{
	struct lab_child *child;
	int out[2], in[2];

	if (lab->child_count == LAB_CHILDREN) {
		lab_fail("too many processes", ENOSPC);
		return NULL;
	}
	child = calloc(1, sizeof(*child));
	if (!child || pipe2(out, O_CLOEXEC) != 0 || pipe2(in, O_CLOEXEC) != 0) {
		lab_fail("pipe", errno);
		free(child);
		return NULL;
	}
	fflush(NULL);
	child->pid = fork();
	if (child->pid == 0)
		child_exec(netns, cpu, argv, out[1], in[0]);
	close(out[1]);
	close(in[0]);
	child->in = fdopen(out[0], "r");
	child->input = in[1];
	lab->child[lab->child_count++] = child;
	return child;
}

void lab_stop(struct lab *lab, struct lab_child *child)
{
	unsigned i;
	int tries;

	if (!child)
		return;
	close(child->input);
	if (kill(child->pid, SIGTERM) == 0) {
		for (tries = 0; tries < 200 && waitpid(child->pid, NULL, WNOHANG) == 0; tries++)
			usleep(10000);
		if (tries == 200) {
			kill(child->pid, SIGKILL);
			waitpid(child->pid, NULL, 0);
		}
	}
	fclose(child->in);
	for (i = 0; i < lab->child_count; i++)
		if (lab->child[i] == child)
			lab->child[i] = lab->child[--lab->child_count];
	free(child);
}

bool lab_await(struct lab_child *child, const char *word, char *out, size_t size)
{
	while (fgets(out, (int)size, child->in))
		if (strncmp(out, word, strlen(word)) == 0)
			return true;
	return false;
}

double lab_cpu_s(pid_t pid)
{
	struct timespec ts = {0};
	clockid_t clock;

	if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &ts) != 0)
		return 0;
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

double lab_resident_kib(pid_t pid)
{
	char path[64], line[256];
	double kib = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	f = fopen(path, "r");
	while (f && fgets(line, sizeof(line), f))
		if (strncmp(line, "VmRSS:", 6) == 0)
			kib = atof(line + 6);
	if (f)
		fclose(f);
	return kib;
}

/* ---- the place ---- */

/* Waits for the other end of the pipe to close, then clears up. Ignores what Ctrl-C sends to all of us. */
static void guardian_run(const struct lab *lab, int fd)
{
	char byte;

	setsid();
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	while (read(fd, &byte, 1) < 0 && errno == EINTR)
		;
	run_ip(true, "ip netns del %s", lab->client_ns);
	run_ip(true, "ip netns del %s", lab->server_ns);
	run_ip(true, "ip netns del %s", lab->middle_ns);
	run_ip(true, "rm -rf %s", lab->dir);
	_exit(0);
}

static int guardian_start(struct lab *lab)
{
	int fds[2];

	if (pipe2(fds, O_CLOEXEC) != 0)
		return -errno;
	fflush(NULL);
	lab->guardian = fork();
	if (lab->guardian < 0)
		return -errno;
	if (lab->guardian == 0) {
		close(fds[1]);
		guardian_run(lab, fds[0]);
	}
	close(fds[0]);
	lab->guardian_fd = fds[1];
	return 0;
}

/* The veth whose one end flextoed takes with AF_XDP; it lies beside the kernel's own. */
static int engine_veth_make(const struct lab *lab, unsigned mtu)
{
	const char *c = lab->client_ns, *s = lab->server_ns;

	if (run_ip(false, "ip link add veth1 mtu %u netns %s type veth peer name veth1 mtu %u netns %s", mtu,
		    c, mtu, s) ||
		run_ip(false, "ip -n %s addr add 10.77.2.1/24 dev veth1", c) ||
		run_ip(false, "ip -n %s link set veth1 up", c) ||
		run_ip(false, "ip -n %s link set veth1 up", s))
		return -EIO;
	return 0;
}

static int namespaces_make(const struct lab *lab, const struct lab_link *link)
{
	const char *c = lab->client_ns, *s = lab->server_ns;

	if (run_ip(false, "ip netns add %s", c) || run_ip(false, "ip netns add %s", s) ||
		run_ip(false, "ip link add veth0 mtu %u netns %s type veth peer name veth0 mtu %u netns %s",
			link->mtu, c, link->mtu, s) ||
		run_ip(false, "ip -n %s addr add 10.77.1.1/24 dev veth0", c) ||
		run_ip(false, "ip -n %s addr add " LAB_KERNEL_ADDR "/24 dev veth0", s) ||
		run_ip(false, "ip -n %s link set veth0 up", c) ||
		run_ip(false, "ip -n %s link set veth0 up", s) ||
		run_ip(false, "ip -n %s link set lo up", c) || run_ip(false, "ip -n %s link set lo up", s))
		return -EIO;
	if (link->afxdp && engine_veth_make(lab, link->mtu))
		return -EIO;
	/* tens of thousands of short connections a second: the client must not run out of ports */
	return run_ip(false,
		"ip netns exec %s sysctl -qw net.ipv4.ip_local_port_range=1024\t65535 "
		"net.ipv4.tcp_max_tw_buckets=2000",
		c);
}

static bool port_answers(const struct lab *lab, const char *addr, uint16_t port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
	pid_t pid;
	int status = 1;

	inet_pton(AF_INET, addr, &a.sin_addr);
	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		int fd;

		alarm(2);
		if (enter_netns(lab->client_ns) != 0)
			_exit(1);
		fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		_exit(connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0 ? 0 : 1);
	}
	waitpid(pid, &status, 0);
	return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* What flextoed logged, when something went wrong. */
static void log_show(const struct lab *lab)
{
	char path[96], line[512];
	FILE *f;

	snprintf(path, sizeof(path), "%s/flextoed.log", lab->dir);
	f = fopen(path, "r");
	while (f && fgets(line, sizeof(line), f))
		fprintf(stderr, "flextoed: %s", line);
	if (f)
		fclose(f);
}

static int flextoed_start(struct lab *lab, const struct lab_link *link)
{
	char program[512], config[96], line[512], device[160];
	uint64_t start_us;
	FILE *f;

	if (!bench_program("flextoed", program, sizeof(program)))
		return lab_fail("flextoed is not there: build first", ENOENT);
	snprintf(config, sizeof(config), "%s/flextoed.conf", lab->dir);
	if (link->afxdp)
		snprintf(device, sizeof(device), "afxdp veth1 trust-checksum on generic %s",
			link->generic ? "on" : "off");
	else
		snprintf(device, sizeof(device), "tap ftb%d netns %s peer 10.77.2.1/24 mtu %u", (int)getpid(),
			lab->client_ns, link->mtu);
	f = fopen(config, "w");
	if (!f)
		return lab_fail(config, errno);
	fprintf(f,
		"# made by flextoe bench\n"
		"device %s\n"
		"address " LAB_ENGINE_ADDR "/24\n"
		"socket %s\n"
		"log %s/flextoed.log\n",
		device, lab->socket_path, lab->dir);
	fclose(f);
	start_us = clock_us();
	lab->flextoed = lab_spawn(lab, link->afxdp ? lab->server_ns : NULL, LAB_SERVER_CPU,
		(const char *const[]){program, "--config", config, NULL});
	if (!lab->flextoed || !lab_await(lab->flextoed, "ready", line, sizeof(line))) {
		log_show(lab);
		return lab_fail("flextoed did not start", EIO);
	}
	lab->startup_s = (double)(clock_us() - start_us) / 1e6;
	setenv("FLEXTOE_SOCKET", lab->socket_path, 1);
	return 0;
}

int lab_open(struct lab *lab, const struct lab_link *link)
{
	char template[] = "/tmp/flextoe-bench-XXXXXX";
	int err;

	*lab = (struct lab){.guardian_fd = -1};
	if (geteuid() != 0)
		return lab_fail("network namespaces need root", EPERM);
	if (!mkdtemp(template))
		return lab_fail(template, errno);
	snprintf(lab->dir, sizeof(lab->dir), "%s", template);
	snprintf(lab->socket_path, sizeof(lab->socket_path), "%s/control.sock", lab->dir);
	snprintf(lab->client_ns, sizeof(lab->client_ns), "ftbc-%d", (int)getpid());
	snprintf(lab->server_ns, sizeof(lab->server_ns), "ftbs-%d", (int)getpid());
	snprintf(lab->middle_ns, sizeof(lab->middle_ns), "ftbm-%d", (int)getpid());
	err = guardian_start(lab);
	if (err)
		return lab_fail("guardian", -err);
	err = namespaces_make(lab, link);
	if (err)
		return lab_fail("cannot make network namespaces", -err);
	return flextoed_start(lab, link);
}

void lab_close(struct lab *lab)
{
	while (lab->child_count > 0)
		lab_stop(lab, lab->child[lab->child_count - 1]);
	if (lab->guardian_fd >= 0) {
		close(lab->guardian_fd);
		waitpid(lab->guardian, NULL, 0);
		lab->guardian_fd = -1;
	}
}

const char *lab_addr(enum lab_side side)
{
	return side == LAB_KERNEL ? LAB_KERNEL_ADDR : LAB_ENGINE_ADDR;
}

struct lab_child *lab_serve(struct lab *lab, enum lab_side side, const char *const *argv, uint16_t port)
{
	const char *words[LAB_ARGS + 4];
	char with_addr[LAB_ARGS][160], flextoe[512];
	struct lab_child *child;
	unsigned n = 0, i;
	int tries;

	if (side == LAB_FLEXTOE) {
		if (!bench_program("flextoe", flextoe, sizeof(flextoe))) {
			lab_fail("flextoe is not there: build first", ENOENT);
			return NULL;
		}
		words[n++] = flextoe;
		words[n++] = "run";
		words[n++] = "--";
	}
	for (i = 0; i < LAB_ARGS && argv[i]; i++) {
		const char *a = strstr(argv[i], "ADDR");

		words[n] = argv[i];
		if (a) {
			snprintf(with_addr[i], sizeof(with_addr[i]), "%.*s%s%s", (int)(a - argv[i]), argv[i],
				lab_addr(side), a + 4);
			words[n] = with_addr[i];
		}
		n++;
	}
	words[n] = NULL;
	child = lab_spawn(lab, side == LAB_KERNEL ? lab->server_ns : NULL, LAB_SERVER_CPU, words);
	if (!child)
		return NULL;
	for (tries = 0; tries < 50; tries++) {
		if (port_answers(lab, lab_addr(side), port))
			return child;
		usleep(100000);
	}
	fprintf(stderr, "flextoe bench: %s does not answer on %s:%u\n", argv[0], lab_addr(side), port);
	if (side == LAB_FLEXTOE)
		log_show(lab);
	lab_stop(lab, child);
	return NULL;
}
