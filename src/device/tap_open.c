/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Makes or attaches to a tap interface and configures the kernel's end of it: namespace, MTU, address, up.
 * Called once, by any thread. A short-lived thread does the work, because it has to enter the namespace
 * the interface is to live in: a tap made there stays there, while its file descriptor works from anywhere.
 */
#include "device/tap.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MTU_MIN	     576u   /* RFC 791: every host takes this much */
#define MTU_MAX	     65521u /* the kernel's limit for a tap: 65,535 less the Ethernet header */
#define ATTACH_TRIES 50	    /* of 10 ms */

struct tap_job {
	const struct tap_config *config;
	struct tap *tap;
	struct device_error *err;
	int result;
};

static int netns_enter(const char *name, struct device_error *err)
{
	char path[256];
	int fd, error;

	if (strchr(name, '/') || !strcmp(name, "..") ||
		snprintf(path, sizeof(path), "/run/netns/%s", name) >= 256)
		return device_fail(err, -EINVAL, "\"%s\" is not the name of a network namespace", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return device_fail(err, -errno, "no network namespace %s: %s", name, strerror(errno));
	if (setns(fd, CLONE_NEWNET)) {
		error = -errno;
		close(fd);
		return device_fail(
			err, error, "cannot enter network namespace %s: %s", name, strerror(-error));
	}
	close(fd);
	return 0;
}

/* Opens the file and binds it to the interface; the name the kernel chose ends up in dev.name. */
static int tap_attach(struct tap *tap, const struct tap_config *config, struct device_error *err)
{
	struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
	const char *name = config->name ? config->name : "";
	const struct timespec pause = {.tv_nsec = 10 * 1000 * 1000};
	int header = TAP_HEADER_BYTES, fd, error;

	if (strlen(name) >= IFNAMSIZ)
		return device_fail(err, -EINVAL, "interface name \"%s\" is longer than %d characters", name,
			IFNAMSIZ - 1);
	snprintf(ifr.ifr_name, IFNAMSIZ, "%s", *name ? name : "tap%d");
	fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return device_fail(err, -errno, "cannot open /dev/net/tun: %s", strerror(errno));
	/* A tap closed a moment ago by a thread other than its poller is released a little later. */
	for (unsigned tries = 0;
		(error = ioctl(fd, TUNSETIFF, &ifr) ? -errno : 0) == -EBUSY && tries < ATTACH_TRIES; tries++)
		nanosleep(&pause, NULL);
	if (error) {
		close(fd);
		return device_fail(err, error, "cannot make or attach to tap interface \"%s\": %s%s",
			ifr.ifr_name, strerror(-error),
			error == -EPERM	  ? " (needs CAP_NET_ADMIN)"
			: error == -EBUSY ? " (another process uses it)"
					  : "");
	}
	tap->fd = fd;
	snprintf(tap->dev.name, sizeof(tap->dev.name), "%s", ifr.ifr_name);
	if (ioctl(fd, TUNSETVNETHDRSZ, &header))
		return device_fail(
			err, -errno, "%s: virtio-net headers refused: %s", tap->dev.name, strerror(errno));
	if (ioctl(fd, TUNSETOFFLOAD, config->offload ? TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO_ECN : 0))
		return device_fail(err, -errno, "%s: offloads refused: %s", tap->dev.name, strerror(errno));
	return 0;
}

static int address_parse(const char *text, struct in_addr *addr, struct in_addr *mask)
{
	char buf[32], *slash, *end;
	unsigned long bits = 32;

	if (snprintf(buf, sizeof(buf), "%s", text) >= (int)sizeof(buf))
		return -EINVAL;
	slash = strchr(buf, '/');
	if (slash) {
		*slash++ = 0;
		errno = 0;
		bits = strtoul(slash, &end, 10);
		if (errno || *slash < '0' || *slash > '9' || *end || bits > 32)
			return -EINVAL;
	}
	if (inet_pton(AF_INET, buf, addr) != 1)
		return -EINVAL;
	mask->s_addr = bits ? htonl(0xffffffffu << (32 - bits)) : 0;
	return 0;
}

/* The host's IPv6 chatter on an interface that only we listen to is noise. Best effort. */
static void ipv6_silence(const char *interface)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "/proc/sys/net/ipv6/conf/%s/disable_ipv6", interface);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	if (write(fd, "1", 1) != 1) {
		/* Then there is noise. */
	}
	close(fd);
}

static int address_set(int sock, const char *interface, const char *text, struct device_error *err)
{
	struct ifreq ifr = {0};
	struct sockaddr_in sin = {.sin_family = AF_INET};
	struct in_addr mask;

	if (address_parse(text, &sin.sin_addr, &mask))
		return device_fail(
			err, -EINVAL, "\"%s\" is not an IPv4 address and prefix like 10.9.0.1/24", text);
	snprintf(ifr.ifr_name, IFNAMSIZ, "%.15s", interface);
	memcpy(&ifr.ifr_addr, &sin, sizeof(sin));
	if (ioctl(sock, SIOCSIFADDR, &ifr))
		return device_fail(
			err, -errno, "%s: address %s refused: %s", interface, text, strerror(errno));
	sin.sin_addr = mask;
	memcpy(&ifr.ifr_netmask, &sin, sizeof(sin));
	if (ioctl(sock, SIOCSIFNETMASK, &ifr))
		return device_fail(
			err, -errno, "%s: prefix of %s refused: %s", interface, text, strerror(errno));
	return 0;
}

/* MTU, address and state of the kernel's end. Never the same Ethernet address on both ends. */
static int tap_configure(struct tap *tap, const struct tap_config *config, struct device_error *err)
{
	struct ifreq ifr = {0};
	const char *interface = tap->dev.name;
	int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int result = 0;

	if (sock < 0)
		return device_fail(err, -errno, "cannot open a socket: %s", strerror(errno));
	snprintf(ifr.ifr_name, IFNAMSIZ, "%.15s", interface);
	if (ioctl(sock, SIOCGIFHWADDR, &ifr) == 0 && !memcmp(ifr.ifr_hwaddr.sa_data, tap->dev.mac, 6)) {
		result = device_fail(
			err, -EINVAL, "%s: the kernel's end already has that Ethernet address", interface);
		goto out;
	}
	ifr.ifr_mtu = (int)tap->dev.mtu;
	if (ioctl(sock, SIOCSIFMTU, &ifr)) {
		result = device_fail(
			err, -errno, "%s: MTU %u refused: %s", interface, tap->dev.mtu, strerror(errno));
		goto out;
	}
	if (config->peer_addr) {
		ipv6_silence(interface);
		result = address_set(sock, interface, config->peer_addr, err);
		if (result)
			goto out;
	}
	if (ioctl(sock, SIOCGIFFLAGS, &ifr)) {
		result =
			device_fail(err, -errno, "%s: cannot read its state: %s", interface, strerror(errno));
		goto out;
	}
	ifr.ifr_flags |= IFF_UP | IFF_RUNNING;
	if (ioctl(sock, SIOCSIFFLAGS, &ifr))
		result = device_fail(err, -errno, "%s: cannot bring it up: %s", interface, strerror(errno));
out:
	close(sock);
	return result;
}

static void *tap_job_run(void *arg)
{
	struct tap_job *job = arg;

	job->result = 0;
	if (job->config->netns && *job->config->netns)
		job->result = netns_enter(job->config->netns, job->err);
	if (!job->result)
		job->result = tap_attach(job->tap, job->config, job->err);
	if (!job->result)
		job->result = tap_configure(job->tap, job->config, job->err);
	return NULL;
}

int tap_open(const struct tap_config *config, struct device **out, struct device_error *err)
{
	uint32_t mtu = config->mtu ? config->mtu : 1500;
	struct tap_job job = {.config = config, .err = err};
	struct tap *tap;
	pthread_t thread;
	int result;

	if (mtu < MTU_MIN || mtu > MTU_MAX)
		return device_fail(err, -EINVAL, "MTU %u is not between %u and %u", mtu, MTU_MIN, MTU_MAX);
	if (config->mac[0] & 1)
		return device_fail(err, -EINVAL, "our Ethernet address must not be a group address");
	tap = calloc(1, sizeof(*tap));
	if (!tap)
		return device_fail(err, -ENOMEM, "out of memory");
	tap->dev.ops = &tap_ops;
	tap->fd = -1;
	tap->burst_limit = 1;
	tap->uring_wanted = !config->plain_io;
	tap->dev.mtu = mtu;
	tap->dev.caps = DEVICE_TX_GATHER;
	if (config->offload) {
		tap->dev.caps |= DEVICE_RX_CSUM | DEVICE_TX_CSUM | DEVICE_TSO | DEVICE_RX_COALESCED;
		tap->dev.max_tso_bytes = TAP_TSO_BYTES;
	}
	device_mac_choose(tap->dev.mac, config->mac);
	if (buffers_init(&tap->rx, TAP_BUFFERS, TAP_HEADROOM + TAP_FRAME_BYTES) ||
		buffers_init(&tap->tx, TAP_BUFFERS, TAP_HEADROOM + TAP_FRAME_BYTES)) {
		result = device_fail(err, -ENOMEM, "out of memory for frame buffers");
		goto fail;
	}
	job.tap = tap;
	result = -pthread_create(&thread, NULL, tap_job_run, &job);
	if (result) {
		device_fail(err, result, "cannot start a thread: %s", strerror(-result));
		goto fail;
	}
	pthread_join(thread, NULL);
	result = job.result;
	if (result)
		goto fail;
	tap->dev.wait_fd = tap->fd;
	*out = &tap->dev;
	return 0;
fail:
	tap_ops.close(&tap->dev);
	return result;
}
