/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tap and AF_XDP against the kernel: frames both ways, bursts in order, super-frames, long packets, sleeping,
 * steering, and that nothing stays behind. Needs root (skipped without); works in namespaces of its own,
 * named after the process and removed at the end, also after a signal.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/wire.h"
#include "device/device.h"

#define WAIT_MS 2000

static char ns_near[32], ns_far[32]; /* where the device is, and where the kernel's end is */
static pid_t owner;

static void cleanup(void)
{
	char command[128];

	if (getpid() != owner)
		return;
	snprintf(command, sizeof(command), "ip netns del %s 2>/dev/null; ip netns del %s 2>/dev/null",
		ns_near, ns_far);
	if (system(command)) {
		/* Then they were not there. */
	}
}

static void on_signal(int number)
{
	(void)number;
	exit(1); /* runs cleanup() */
}

__attribute__((format(printf, 1, 2))) static void shell(const char *format, ...)
{
	char command[512];
	va_list args;

	va_start(args, format);
	vsnprintf(command, sizeof(command), format, args);
	va_end(args);
	if (system(command))
		fail_msg("failed: %s", command);
}

static void netns_enter(const char *name)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/run/netns/%s", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(setns(fd, CLONE_NEWNET), 0);
	close(fd);
}

/* A packet socket on the kernel's end, with virtio-net headers if asked for. */
static int far_socket(const char *interface, bool headers)
{
	struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_protocol = htons(ETHTYPE_IPV4_)};
	int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC), on = 1, fd;

	assert_true(home >= 0);
	netns_enter(ns_far);
	fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETHTYPE_IPV4_));
	assert_true(fd >= 0);
	address.sll_ifindex = (int)if_nametoindex(interface);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	if (headers)
		assert_int_equal(setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof(on)), 0);
	assert_int_equal(setns(home, CLONE_NEWNET), 0);
	close(home);
	return fd;
}

/* An IPv4 TCP frame of len bytes, with a number and a pattern after the headers. */
static void frame_make(uint8_t *at, const uint8_t to[6], uint32_t dst, uint32_t len, uint32_t number)
{
	struct eth_hdr *eth = (struct eth_hdr *)at;
	struct ipv4_hdr *ip = (struct ipv4_hdr *)(eth + 1);
	struct tcp_hdr *tcp = (struct tcp_hdr *)(ip + 1);

	memset(at, 0, 54);
	memcpy(eth->dst, to, 6);
	memcpy(eth->src, "\x02\x00\x00\x00\x00\x99", 6);
	eth->type = to_be16(ETHTYPE_IPV4_);
	ip->version_ihl = 0x45;
	ip->total_len = to_be16((uint16_t)(len - 14));
	ip->ttl = 64;
	ip->protocol = IPPROTO_TCP_;
	ip->src = inet_addr("10.77.0.9");
	ip->dst = dst;
	tcp->src_port = to_be16(7);
	tcp->dst_port = to_be16(9);
	tcp->data_off = 0x50;
	tcp->flags = TCP_ACK_;
	memcpy(at + 54, &number, 4);
	for (uint32_t i = 58; i < len; i++)
		at[i] = (uint8_t)(number + i);
}

static bool frame_is(const uint8_t *at, uint32_t got, uint32_t len, uint32_t number)
{
	if (got != len || memcmp(at + 54, &number, 4))
		return false;
	for (uint32_t i = 58; i < len; i++)
		if (at[i] != (uint8_t)(number + i))
			return false;
	return true;
}

static bool is_ours(const uint8_t *at, uint32_t len)
{
	return len >= 58 && at[12] == 8 && at[13] == 0 && at[23] == IPPROTO_TCP_ &&
	       !memcmp(at + 26, "\x0a\x4d\0\x09", 4);
}

/* The next frame that is one of the test's, sleeping as a data path would; false after a while without one.
 */
static bool near_receive(struct device *dev, struct frame *frame, int wait_ms)
{
	for (;;) {
		struct pollfd p = {.fd = dev->wait_fd, .events = POLLIN};

		while (dev->ops->rx_burst(dev, frame, 1)) {
			if (is_ours(frame->data, frame->len))
				return true;
			dev->ops->rx_release(dev, frame, 1);
		}
		dev->ops->tx_flush(dev);
		if (dev->ops->wait_begin(dev))
			continue;
		if (poll(&p, 1, wait_ms) != 1)
			return false;
		dev->ops->wait_end(dev);
	}
}

static void near_expect(struct device *dev, uint32_t len, uint32_t number)
{
	struct frame frame;

	if (!near_receive(dev, &frame, WAIT_MS))
		fail_msg("frame %u did not arrive", number);
	assert_true(frame_is(frame.data, frame.len, len, number));
	dev->ops->rx_release(dev, &frame, 1);
}

static void far_expect(int fd, uint32_t len, uint32_t number)
{
	static uint8_t buf[70000];
	struct pollfd p = {.fd = fd, .events = POLLIN};

	for (;;) {
		ssize_t got;

		if (poll(&p, 1, WAIT_MS) != 1)
			fail_msg("frame %u did not arrive at the kernel's end", number);
		got = recv(fd, buf, sizeof(buf), 0);
		assert_true(got > 0);
		if (!is_ours(buf, (uint32_t)got))
			continue;
		assert_true(frame_is(buf, (uint32_t)got, len, number));
		return;
	}
}

static void near_send(struct device *dev, const uint8_t to[6], uint32_t first, unsigned count, uint32_t len)
{
	while (count) {
		struct frame frames[32];
		unsigned n = dev->ops->tx_alloc(dev, frames, count < 32 ? count : 32), sent;

		for (unsigned i = 0; i < n; i++) {
			assert_true(frames[i].room >= dev->mtu + 128 || frames[i].room >= len);
			frame_make(frames[i].data, to, inet_addr("10.77.0.5"), len, first + i);
			frames[i].len = len;
		}
		sent = dev->ops->tx_burst(dev, frames, n);
		dev->ops->tx_free(dev, frames + sent, n - sent);
		dev->ops->tx_flush(dev);
		first += sent;
		count -= sent;
	}
}

/* Sends a frame whose payload lies in two other places. */
static void near_send_gather(struct device *dev, const uint8_t to[6], uint32_t number, uint32_t len)
{
	static uint8_t whole[70000];
	struct frame frame;

	frame_make(whole, to, inet_addr("10.77.0.5"), len, number);
	assert_int_equal(dev->ops->tx_alloc(dev, &frame, 1), 1);
	memcpy(frame.data, whole, 54);
	frame.len = 54;
	frame.frag_count = 2;
	frame.frag[0].data = whole + 54;
	frame.frag[0].len = 101;
	frame.frag[1].data = whole + 54 + 101;
	frame.frag[1].len = len - 54 - 101;
	assert_int_equal(dev->ops->tx_burst(dev, &frame, 1), 1);
	dev->ops->tx_flush(dev);
}

static void far_send(int fd, const uint8_t to[6], uint32_t dst, uint32_t number, uint32_t len)
{
	static uint8_t buf[70000];

	frame_make(buf, to, dst, len, number);
	assert_int_equal(send(fd, buf, len, 0), len);
}

/* What every device must do: single frames, bursts in order, gather, small and full-sized. */
static void traffic(struct device *dev, int fd, uint32_t ours)
{
	static const uint8_t far_mac[6] = {2, 0, 0, 0, 0, 0x98};
	struct device_stats before, after;
	uint32_t full = dev->mtu + 14;

	dev->ops->stats(dev, &before);
	for (uint32_t i = 0; i < 10; i++) {
		near_send(dev, far_mac, i, 1, i % 2 ? full : 60);
		far_expect(fd, i % 2 ? full : 60, i);
		far_send(fd, dev->mac, ours, i, i % 2 ? full : 60);
		near_expect(dev, i % 2 ? full : 60, i);
	}
	for (uint32_t round = 0; round < 20; round++) {
		for (uint32_t i = 0; i < 50; i++)
			far_send(fd, dev->mac, ours, round * 50 + i, 60 + i);
		for (uint32_t i = 0; i < 50; i++)
			near_expect(dev, 60 + i, round * 50 + i);
		near_send(dev, far_mac, round * 50, 50, 200);
		for (uint32_t i = 0; i < 50; i++)
			far_expect(fd, 200, round * 50 + i);
	}
	for (uint32_t i = 0; i < 20; i++) {
		near_send_gather(dev, far_mac, i, i % 2 ? full : 160);
		far_expect(fd, i % 2 ? full : 160, i);
	}
	dev->ops->stats(dev, &after);
	assert_true(after.rx_frames - before.rx_frames >= 1010);
	assert_int_equal(after.tx_frames - before.tx_frames, 1030);
	assert_int_equal(after.tx_dropped, 0);
	assert_int_equal(after.rx_errors, 0);
}

/* Super-frames: whole through the tap, marked, both ways. */
static void tap_super(struct device *dev, const char *interface)
{
	static uint8_t whole[10 + 66000], to[6] = {2, 0, 0, 0, 0, 0x98};
	uint32_t len = 54 + 60000;
	int fd = far_socket(interface, true);
	struct pollfd p = {.fd = fd, .events = POLLIN};
	uint16_t gso = 1448, header_words[4];
	struct frame frame;
	ssize_t got;

	frame_make(whole + 10, to, inet_addr("10.77.0.5"), len, 1);
	assert_int_equal(dev->ops->tx_alloc(dev, &frame, 1), 1);
	memcpy(frame.data, whole + 10, 54);
	frame.len = 54;
	frame.flags = FRAME_TSO | FRAME_CSUM_OFFLOAD;
	frame.gso_size = gso;
	frame.hdr_len = 54;
	frame.csum_start = 34;
	frame.csum_offset = 16;
	frame.frag_count = 1;
	frame.frag[0].data = whole + 10 + 54;
	frame.frag[0].len = 60000;
	assert_int_equal(dev->ops->tx_burst(dev, &frame, 1), 1);
	dev->ops->tx_flush(dev);
	do {
		assert_int_equal(poll(&p, 1, WAIT_MS), 1);
		got = recv(fd, whole, sizeof(whole), 0);
	} while (got <= 10 || !is_ours(whole + 10, (uint32_t)got - 10));
	assert_true(frame_is(whole + 10, (uint32_t)got - 10, len, 1));
	memcpy(header_words, whole + 2, sizeof(header_words));
	assert_int_equal(whole[0], 1); /* needs checksum */
	assert_int_equal(whole[1], 1); /* TCP over IPv4 */
	assert_int_equal(header_words[1], gso);

	/* The same back, with a checksum to be made: the header comes from the other side now. */
	frame_make(whole + 10, dev->mac, inet_addr("10.77.0.1"), len, 2);
	assert_int_equal(send(fd, whole, 10 + len, 0), 10 + len);
	assert_true(near_receive(dev, &frame, WAIT_MS));
	assert_true(frame_is(frame.data, frame.len, len, 2));
	assert_int_equal(frame.flags, FRAME_TSO | FRAME_CSUM_GOOD);
	assert_int_equal(frame.gso_size, gso);
	dev->ops->rx_release(dev, &frame, 1);
	close(fd);
}

static void tap_whole(bool plain, uint32_t mtu)
{
	char name[16], path[128];
	struct tap_config config = {.name = name,
		.netns = ns_far,
		.peer_addr = "10.77.0.5/24",
		.mtu = mtu,
		.mac = {2, 0, 0, 0, 0, 1},
		.offload = true,
		.plain_io = plain};
	struct device_error err = {0};
	struct device *dev, *again;
	int fd;

	snprintf(name, sizeof(name), "tt%d", (int)owner);
	if (tap_open(&config, &dev, &err))
		fail_msg("%s", err.text);
	assert_string_equal(dev->name, name);
	assert_int_equal(dev->mtu, mtu);
	assert_true(tap_open(&config, &again, &err) == -EBUSY);
	fd = far_socket(name, false);
	traffic(dev, fd, inet_addr("10.77.0.1"));
	close(fd);
	if (mtu == 1500)
		tap_super(dev, name);
	dev->ops->close(dev);
	snprintf(path, sizeof(path), "ip -n %s link show %s 2>/dev/null >&2 && exit 1 || exit 0", ns_far,
		name);
	shell("%s", path);
}

static void test_tap(void **state)
{
	(void)state;
	tap_whole(false, 1500);
	tap_whole(false, 9000);
}

static void test_tap_plain(void **state)
{
	(void)state;
	tap_whole(true, 1500);
}

static void *poll_a_while(void *arg)
{
	struct device *dev = arg;
	struct frame frame;

	near_receive(dev, &frame, 20);
	return NULL;
}

/* Polled by one thread, which ends; closed by another: the name can be had again all the same. */
static void test_tap_two_threads(void **state)
{
	char name[16];
	struct tap_config config = {.name = name, .netns = ns_far, .offload = true};
	struct device_error err = {0};
	struct device *dev;
	pthread_t thread;

	(void)state;
	snprintf(name, sizeof(name), "tu%d", (int)owner);
	for (unsigned i = 0; i < 5; i++) {
		if (tap_open(&config, &dev, &err))
			fail_msg("%s", err.text);
		assert_int_equal(pthread_create(&thread, NULL, poll_a_while, dev), 0);
		pthread_join(thread, NULL);
		dev->ops->close(dev);
	}
}

static void test_tap_refused(void **state)
{
	struct tap_config config = {.name = "a-name-that-is-too-long"};
	struct device_error err = {0};
	struct device *dev;

	(void)state;
	assert_int_equal(tap_open(&config, &dev, &err), -EINVAL);
	config.name = NULL;
	config.netns = "nowhere-to-be-found";
	assert_int_equal(tap_open(&config, &dev, &err), -ENOENT);
	config.netns = "../../etc";
	assert_int_equal(tap_open(&config, &dev, &err), -EINVAL);
	config.netns = ns_far;
	config.peer_addr = "10.0.0.256/24";
	assert_int_equal(tap_open(&config, &dev, &err), -EINVAL);
	config.peer_addr = "10.0.0.1/33";
	assert_int_equal(tap_open(&config, &dev, &err), -EINVAL);
	config.peer_addr = NULL;
	config.mtu = 100;
	assert_int_equal(tap_open(&config, &dev, &err), -EINVAL);
}

/* The kernel is asked for a checksum and its receiving end told so; also for a packet of several pieces. */
static void afxdp_checksum(struct device *dev)
{
	static const uint8_t to[6] = {2, 0, 0, 0, 0, 0x98};
	static uint8_t got[70000];
	uint32_t lens[] = {100, dev->mtu + 14};
	int fd = far_socket("far0", true);

	for (uint32_t i = 0; i < 2; i++) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		uint16_t start_offset[2];
		struct frame frame;
		ssize_t len;

		assert_int_equal(dev->ops->tx_alloc(dev, &frame, 1), 1);
		frame_make(frame.data, to, inet_addr("10.77.0.5"), lens[i], i);
		frame.len = lens[i];
		frame.flags = FRAME_CSUM_OFFLOAD;
		frame.csum_start = 34;
		frame.csum_offset = 16;
		assert_int_equal(dev->ops->tx_burst(dev, &frame, 1), 1);
		dev->ops->tx_flush(dev);
		do {
			assert_int_equal(poll(&p, 1, WAIT_MS), 1);
			len = recv(fd, got, sizeof(got), 0);
		} while (len <= 10 || !is_ours(got + 10, (uint32_t)len - 10));
		assert_true(frame_is(got + 10, (uint32_t)len - 10, lens[i], i));
		memcpy(start_offset, got + 6, 4);
		assert_int_equal(got[0], 1);
		assert_int_equal(start_offset[0], 34);
		assert_int_equal(start_offset[1], 16);
	}
	close(fd);
}

static void afxdp_whole(uint32_t mtu, bool generic)
{
	struct afxdp_config config = {.interface = "near0",
		.force_generic = generic,
		.trust_checksum = true,
		.addr_count = 1,
		.addr = {inet_addr("10.77.0.1")}};
	struct device_error err = {0};
	struct device *dev, *again;
	struct frame frame;
	int fd, result;

	shell("ip -n %s link add near0 mtu %u type veth peer name far0 mtu %u netns %s && "
	      "ip -n %s link set near0 up && ip -n %s link set far0 up",
		ns_near, mtu, mtu, ns_far, ns_near, ns_far);
	result = afxdp_open(&config, &dev, &err);
	if (result == -ENOTSUP || result == -EAFNOSUPPORT) {
		shell("ip -n %s link del near0", ns_near);
		print_message("%s\n", err.text);
		skip();
	}
	if (result)
		fail_msg("%s", err.text);
	if (*err.text)
		print_message("note: %s\n", err.text);
	assert_int_equal(afxdp_open(&config, &again, &err), -EBUSY);
	fd = far_socket("far0", false);
	if (dev->mtu == mtu)
		traffic(dev, fd, inet_addr("10.77.0.1"));
	if (dev->mtu == mtu && (dev->caps & DEVICE_TX_CSUM))
		afxdp_checksum(dev);
	/* What is for another address is not ours. */
	far_send(fd, dev->mac, inet_addr("10.77.0.2"), 1, 60);
	far_send(fd, dev->mac, inet_addr("10.77.0.1"), 2, 60);
	near_expect(dev, 60, 2);
	assert_false(near_receive(dev, &frame, 50));
	dev->ops->close(dev);
	shell("ip -n %s link show near0 | grep -q xdp && exit 1 || exit 0", ns_near);
	/* All of the traffic this time, on the same queue. */
	config.addr_count = 0;
	if (afxdp_open(&config, &dev, &err))
		fail_msg("%s", err.text);
	far_send(fd, dev->mac, inet_addr("10.77.0.200"), 3, 60);
	near_expect(dev, 60, 3);
	dev->ops->close(dev);
	close(fd);
	shell("ip -n %s link del near0", ns_near);
}

static void test_afxdp_native(void **state)
{
	(void)state;
	afxdp_whole(1500, false);
}

static void test_afxdp_generic(void **state)
{
	(void)state;
	afxdp_whole(1500, true);
}

static void test_afxdp_jumbo(void **state)
{
	(void)state;
	afxdp_whole(9000, false);
	afxdp_whole(65535, false);
}

/* NULL where this kernel has no AF_XDP. */
static struct device *afxdp_open_near(bool generic, uint32_t frames)
{
	struct afxdp_config config = {.interface = "near0",
		.force_generic = generic,
		.frames = frames,
		.trust_checksum = true,
		.addr_count = 1,
		.addr = {inet_addr("10.77.0.1")}};
	struct device_error err = {0};
	struct device *dev = NULL;
	int result = afxdp_open(&config, &dev, &err);

	if (result == -ENOTSUP || result == -EAFNOSUPPORT)
		return NULL;
	if (result)
		fail_msg("%s", err.text);
	return dev;
}

/* A veth pair and the device on its near end. */
static struct device *afxdp_start(bool generic, uint32_t frames)
{
	shell("ip -n %s link add near0 type veth peer name far0 netns %s && "
	      "ip -n %s link set near0 up && ip -n %s link set far0 up",
		ns_near, ns_far, ns_near, ns_far);
	return afxdp_open_near(generic, frames);
}

static void afxdp_stop(struct device *dev)
{
	if (dev)
		dev->ops->close(dev);
	shell("ip -n %s link del near0", ns_near);
}

/* What 256 connections send while the application has the engine's core: it waits, and nothing is lost. */
static void afxdp_burst(bool generic)
{
	struct device *dev = afxdp_start(generic, 0);
	struct device_stats stats;
	const uint32_t count = 6000;
	int fd;

	if (!dev) {
		afxdp_stop(dev);
		skip();
	}
	fd = far_socket("far0", false);
	for (uint32_t round = 0; round < 4; round++) {
		for (uint32_t i = 0; i < count; i++)
			far_send(fd, dev->mac, inet_addr("10.77.0.1"), i, 60 + i % 900);
		for (uint32_t i = 0; i < count; i++)
			near_expect(dev, 60 + i % 900, i);
	}
	dev->ops->stats(dev, &stats);
	assert_int_equal(stats.rx_dropped, 0);
	assert_int_equal(stats.rx_errors, 0);
	close(fd);
	afxdp_stop(dev);
}

static void test_afxdp_burst(void **state)
{
	(void)state;
	afxdp_burst(false);
	afxdp_burst(true);
}

/* Sends a frame longer than the MTU, as TCP segmentation offload would. */
static void far_send_super(int fd, const uint8_t to[6], uint32_t number, uint32_t len)
{
	static uint8_t whole[10 + 66000];
	const uint16_t words[] = {54, 1448, 34, 16}; /* header bytes, segment, checksum: from, at */

	memset(whole, 0, 10);
	whole[0] = 1;
	whole[1] = 1;
	memcpy(whole + 2, words, sizeof(words));
	frame_make(whole + 10, to, inet_addr("10.77.0.1"), len, number);
	assert_int_equal(send(fd, whole, 10 + len, 0), 10 + len);
}

/*
 * Generic mode: what the peer's kernel left whole arrives whole, wherever its pieces lie. 64 slots take three
 * of them, and they soon wrap around; frames are given back out of order, and some are held for long.
 */
static void test_afxdp_super(void **state)
{
	struct device *dev = afxdp_start(true, 128);
	struct frame held, frame;
	struct device_stats stats;
	int fd;

	(void)state;
	if (!dev || !(dev->caps & DEVICE_RX_COALESCED)) {
		afxdp_stop(dev);
		skip();
	}
	fd = far_socket("far0", true);
	for (uint32_t i = 0; i < 200; i++) {
		uint32_t len = 30000 + (i * 7919) % 34000, extra = 60 + i;

		far_send_super(fd, dev->mac, i, len);
		far_send_super(fd, dev->mac, i + 1000, 2000 + extra);
		assert_true(near_receive(dev, &held, WAIT_MS));
		assert_true(near_receive(dev, &frame, WAIT_MS));
		assert_true(held.flags & FRAME_TSO);
		dev->ops->rx_release(dev, &frame, 1);
		/* The one that is still held is not written over. */
		far_send_super(fd, dev->mac, i + 2000, 25000);
		assert_true(near_receive(dev, &frame, WAIT_MS));
		assert_true(frame_is(frame.data, frame.len, 25000, i + 2000));
		assert_true(frame_is(held.data, held.len, len, i));
		dev->ops->rx_release(dev, &frame, 1);
		dev->ops->rx_release(dev, &held, 1);
	}
	dev->ops->stats(dev, &stats);
	assert_int_equal(stats.rx_dropped, 0);
	assert_int_equal(stats.rx_errors, 0);
	close(fd);
	afxdp_stop(dev);
}

/* What a link that is down holds up leaves when it comes up, without a push from a new frame. */
static void test_afxdp_down_up(void **state)
{
	static const uint8_t far_mac[6] = {2, 0, 0, 0, 0, 0x98};
	struct device *dev = afxdp_start(false, 0);
	struct frame frame;
	int fd;

	(void)state;
	if (!dev) {
		afxdp_stop(dev);
		skip();
	}
	fd = far_socket("far0", false);
	shell("ip -n %s link set near0 down", ns_near);
	near_send(dev, far_mac, 7, 1, 100);
	assert_false(dev->ops->wait_begin(dev)); /* no busy wait for an interface that is down */
	dev->ops->wait_end(dev);
	shell("ip -n %s link set near0 up", ns_near);
	for (unsigned i = 0; i < 3; i++)
		dev->ops->rx_burst(dev, &frame, 0);
	far_expect(fd, 100, 7);
	close(fd);
	afxdp_stop(dev);
}

/* The interface goes while frames wait: nothing hangs, they are counted, and the buffers are not lost. */
static void test_afxdp_gone(void **state)
{
	static const uint8_t far_mac[6] = {2, 0, 0, 0, 0, 0x98};
	struct device *dev = afxdp_start(false, 0);
	struct device_stats stats;
	struct frame frame;

	(void)state;
	if (!dev) {
		afxdp_stop(dev);
		skip();
	}
	near_send(dev, far_mac, 0, 50, 100);
	shell("ip -n %s link del near0", ns_near);
	near_send(dev, far_mac, 50, 5000, 100);
	assert_false(near_receive(dev, &frame, 20));
	dev->ops->stats(dev, &stats);
	assert_int_equal(stats.tx_frames, 50);
	assert_int_equal(stats.tx_dropped, 5000);
	dev->ops->close(dev);
}

/* The far end's segmentation offload goes when a native program comes, and must come back when it leaves. */
static void far_offload_expect(bool on)
{
	shell("ip netns exec %s ethtool -k far0 | grep -q 'tcp-segmentation-offload: %s'", ns_far,
		on ? "on" : "off");
}

/* An engine that is killed leaves nothing that stands in the way of the next one. */
static void test_afxdp_killed(void **state)
{
	struct device *dev = afxdp_start(false, 0);
	int fd, ready[2];
	char byte;

	(void)state;
	if (!dev) {
		afxdp_stop(dev);
		skip();
	}
	far_offload_expect(false);
	afxdp_stop(dev);
	for (unsigned i = 0; i < 3; i++) {
		pid_t pid;

		assert_int_equal(pipe(ready), 0);
		pid = fork();
		assert_true(pid >= 0);
		if (!pid) {
			dev = afxdp_start(i % 2, 0);
			if (write(ready[1], "", 1) == 1)
				pause();
			_exit(1);
		}
		close(ready[1]);
		assert_int_equal(read(ready[0], &byte, 1), 1);
		close(ready[0]);
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		shell("ip -n %s link show near0 | grep -q xdp && exit 1 || exit 0", ns_near);
		far_offload_expect(true);
		/* The same interface again. */
		dev = afxdp_open_near(i % 2, 0);
		fd = far_socket("far0", false);
		traffic(dev, fd, inet_addr("10.77.0.1"));
		close(fd);
		dev->ops->close(dev);
		far_offload_expect(true);
		shell("ip -n %s link del near0", ns_near);
	}
}

static void test_afxdp_refused(void **state)
{
	struct afxdp_config config = {.interface = "nobody0"};
	struct device_error err = {0};
	struct device *dev;
	int result = afxdp_open(&config, &dev, &err);

	(void)state;
	assert_true(result == -ENODEV || result == -ENOTSUP || result == -EAFNOSUPPORT);
	config.interface = "lo";
	config.frames = 100;
	assert_true(afxdp_open(&config, &dev, &err) < 0);
	if (result != -ENODEV)
		return;
	assert_non_null(strstr(err.text, "power of two"));
	config.frames = 0;
	config.queue = 9;
	shell("ip -n %s link set lo up", ns_near);
	assert_int_equal(afxdp_open(&config, &dev, &err), -EINVAL);
	assert_non_null(strstr(err.text, "queues"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_tap),
		cmocka_unit_test(test_tap_plain),
		cmocka_unit_test(test_tap_two_threads),
		cmocka_unit_test(test_tap_refused),
		cmocka_unit_test(test_afxdp_native),
		cmocka_unit_test(test_afxdp_generic),
		cmocka_unit_test(test_afxdp_jumbo),
		cmocka_unit_test(test_afxdp_burst),
		cmocka_unit_test(test_afxdp_super),
		cmocka_unit_test(test_afxdp_down_up),
		cmocka_unit_test(test_afxdp_gone),
		cmocka_unit_test(test_afxdp_killed),
		cmocka_unit_test(test_afxdp_refused),
	};
	char command[128];

	if (geteuid() || access("/dev/net/tun", R_OK | W_OK)) {
		printf("skipped: needs root and /dev/net/tun\n");
		return 77;
	}
	owner = getpid();
	snprintf(ns_near, sizeof(ns_near), "ftnear%d", (int)owner);
	snprintf(ns_far, sizeof(ns_far), "ftfar%d", (int)owner);
	atexit(cleanup);
	signal(SIGINT, on_signal);
	signal(SIGTERM, on_signal);
	snprintf(command, sizeof(command), "ip netns add %s && ip netns add %s", ns_near, ns_far);
	if (system(command)) {
		printf("skipped: cannot make network namespaces\n");
		return 77;
	}
	netns_enter(ns_near);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
