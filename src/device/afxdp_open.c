/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Opens an AF_XDP socket on a queue of an existing interface and attaches the program that steers our frames
 * to it (afxdp_steer.bpf.c). Called once, by any thread; afxdp.c moves the frames.
 *
 * Everything beyond the oldest AF_XDP is asked for and done without when refused: native mode, zero copy,
 * packets of several buffers (Linux 6.6), checksums by transmit metadata (6.8). What is missing is said in
 * err->text even though the device opens.
 */
#include "device/afxdp.h"

#include <errno.h>
#include <linux/if_link.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

static const uint8_t steer_object[] = {
#include "afxdp_steer.h"
};

#define UMEM_DEFAULT (32u << 20) /* bytes */
#define FRAMES_MAX   (1u << 20)
/* What may wait in the kernel's receive path behind us: less than the 1000 frames its backlog holds, or they
   are dropped there; more than a few long packets. The kernel doubles it. */
#define SEND_BYTES (256 << 10)
#define BIND_TRIES 50 /* of 20 ms: the kernel frees a closed socket's queue a little later */

/* What the device has to do without, for err->text. */
struct notes {
	char text[200];
};

static void note_add(struct notes *notes, const char *what)
{
	size_t len = strlen(notes->text);

	snprintf(notes->text + len, sizeof(notes->text) - len, "%s%s", len ? ", " : "", what);
}

static int interface_read(struct afxdp *afxdp, const char *name, int *ifindex, struct device_error *err)
{
	struct ifreq ifr = {0};
	int sock, result = 0;

	if (!name || !*name || strlen(name) >= IFNAMSIZ)
		return device_fail(err, -EINVAL, "AF_XDP needs the name of an interface");
	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%.15s", name);
	snprintf(afxdp->dev.name, sizeof(afxdp->dev.name), "%s", name);
	sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (sock < 0)
		return device_fail(err, -errno, "cannot open a socket: %s", strerror(errno));
	*ifindex = (int)if_nametoindex(name);
	if (!*ifindex) {
		result = device_fail(err, -errno, "no interface %s: %s", name, strerror(errno));
	} else if (ioctl(sock, SIOCGIFMTU, &ifr)) {
		result = device_fail(err, -errno, "%s: cannot read its MTU: %s", name, strerror(errno));
	} else {
		afxdp->dev.mtu = (uint32_t)ifr.ifr_mtu < 65535 ? (uint32_t)ifr.ifr_mtu : 65535;
		if (ioctl(sock, SIOCGIFHWADDR, &ifr))
			result = device_fail(
				err, -errno, "%s: cannot read its address: %s", name, strerror(errno));
		else
			memcpy(afxdp->dev.mac, ifr.ifr_hwaddr.sa_data, 6);
	}
	close(sock);
	return result;
}

/* Loads the program, fills its address map, attaches it. *native tells which mode it got. */
static int program_attach(struct afxdp *afxdp, const struct afxdp_config *config, int ifindex, bool *native,
	struct notes *notes, struct device_error *err)
{
	struct bpf_object_open_opts open_options = {
		.sz = sizeof(open_options), .object_name = "flextoe_steer"};
	struct bpf_link_create_opts options = {.sz = sizeof(options), .flags = XDP_FLAGS_DRV_MODE};
	const char *name = afxdp->dev.name;
	uint32_t everything = 0, count = config->addr_count;
	struct bpf_program *program;
	uint8_t one = 1;
	int map, result;

	libbpf_set_print(NULL);
	afxdp->object = bpf_object__open_mem(steer_object, sizeof(steer_object), &open_options);
	if (!afxdp->object)
		return device_fail(err, -errno, "cannot read the XDP program: %s", strerror(errno));
	result = bpf_object__load(afxdp->object);
	if (result)
		return device_fail(err, result, "the kernel refused the XDP program: %s%s", strerror(-result),
			result == -EPERM ? " (needs CAP_BPF and CAP_NET_ADMIN)" : "");
	map = bpf_object__find_map_fd_by_name(afxdp->object, "addresses");
	program = bpf_object__find_program_by_name(afxdp->object, "steer");
	if (map < 0 || !program)
		return device_fail(err, -ENOENT, "the XDP program is not the one we know");
	for (uint32_t i = 0; i < (count ? count : 1); i++)
		if (bpf_map_update_elem(map, count ? &config->addr[i] : &everything, &one, BPF_ANY))
			return device_fail(err, -errno, "cannot tell the XDP program our addresses: %s",
				strerror(errno));
	*native = !config->force_generic;
	if (*native) {
		afxdp->link_fd = bpf_link_create(bpf_program__fd(program), ifindex, BPF_XDP, &options);
		if (afxdp->link_fd == -EBUSY || afxdp->link_fd == -EEXIST)
			return device_fail(err, -EBUSY, "%s: another XDP program is attached already", name);
		if (afxdp->link_fd >= 0)
			return 0;
		*native = false;
		note_add(notes, "no native XDP here, using generic mode, which is slower");
	}
	options.flags = XDP_FLAGS_SKB_MODE;
	afxdp->link_fd = bpf_link_create(bpf_program__fd(program), ifindex, BPF_XDP, &options);
	if (afxdp->link_fd < 0)
		return device_fail(err, afxdp->link_fd == -EEXIST ? -EBUSY : afxdp->link_fd,
			"%s: cannot attach the XDP program: %s", name,
			afxdp->link_fd == -EBUSY || afxdp->link_fd == -EEXIST
				? "another one is attached already"
				: strerror(-afxdp->link_fd));
	return 0;
}

/* Registers the umem, with room for transmit metadata where the kernel knows it, and with chunks that overlap
   (which is what a umem without alignment comes to); a driver's zero copy may want neither. */
static int umem_register(struct afxdp *afxdp, bool zero_copy, struct notes *notes, struct device_error *err)
{
	struct afxdp_umem_reg reg = {.addr = (uint64_t)(uintptr_t)afxdp->umem,
		.len = afxdp->umem_bytes,
		.chunk_size = afxdp->chunk};
	int result;

	for (unsigned i = zero_copy ? 2 : 0; i < 4; i++) {
		afxdp->overlap = i < 2;
		afxdp->metadata = i % 2 == 0;
		reg.flags = (afxdp->overlap ? XDP_UMEM_UNALIGNED_CHUNK_FLAG : 0) |
			    (afxdp->metadata ? AFXDP_UMEM_TX_METADATA_LEN : 0);
		reg.tx_metadata_len = afxdp->metadata ? AFXDP_METADATA : 0;
		result = setsockopt(afxdp->fd, SOL_XDP, XDP_UMEM_REG, &reg,
			afxdp->metadata ? sizeof(reg) : sizeof(struct xdp_umem_reg));
		if (result && errno == EINVAL)
			continue;
		if (result)
			break;
		afxdp->rx_step = afxdp->overlap ? afxdp->chunk - AFXDP_HEADROOM : afxdp->chunk;
		if (!afxdp->metadata)
			note_add(notes, "this kernel cannot make checksums for us");
		return 0;
	}
	return device_fail(err, -errno, "the kernel refused %zu MiB of frame memory: %s%s",
		afxdp->umem_bytes >> 20, strerror(errno),
		errno == ENOBUFS || errno == ENOMEM ? " (see ulimit -l)" : "");
}

static int ring_map(struct afxdp *afxdp, struct afxdp_ring *ring, off_t page_offset,
	const struct xdp_ring_offset *offset, size_t entry_bytes)
{
	uint8_t *map;

	ring->map_bytes = offset->desc + ring->size * entry_bytes;
	map = mmap(NULL, ring->map_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, afxdp->fd,
		page_offset);
	if (map == MAP_FAILED)
		return -errno;
	ring->map = map;
	ring->producer = (uint32_t *)(map + offset->producer);
	ring->consumer = (uint32_t *)(map + offset->consumer);
	ring->flags = (uint32_t *)(map + offset->flags);
	ring->entries = map + offset->desc;
	return 0;
}

static int rings_make(struct afxdp *afxdp)
{
	const struct {
		int option;
		struct afxdp_ring *ring;
		uint32_t size;
	} rings[] = {{XDP_UMEM_FILL_RING, &afxdp->fill, afxdp->rx_slots},
		{XDP_RX_RING, &afxdp->rx, afxdp->rx_slots}, {XDP_TX_RING, &afxdp->tx, AFXDP_TX_CHUNKS},
		{XDP_UMEM_COMPLETION_RING, &afxdp->done, AFXDP_TX_CHUNKS}};
	struct xdp_mmap_offsets offsets;
	socklen_t len = sizeof(offsets);
	int result;

	for (unsigned i = 0; i < ARRAY_SIZE(rings); i++) {
		uint32_t entries = 64;

		while (entries < rings[i].size)
			entries *= 2;
		rings[i].ring->size = entries;
		if (setsockopt(afxdp->fd, SOL_XDP, rings[i].option, &entries, sizeof(entries)))
			return -errno;
	}
	if (getsockopt(afxdp->fd, SOL_XDP, XDP_MMAP_OFFSETS, &offsets, &len))
		return -errno;
	if (len != sizeof(offsets))
		return -EPROTO; /* a kernel from before ring flags (5.4) */
	result = ring_map(afxdp, &afxdp->rx, XDP_PGOFF_RX_RING, &offsets.rx, sizeof(struct xdp_desc));
	if (!result)
		result = ring_map(afxdp, &afxdp->tx, XDP_PGOFF_TX_RING, &offsets.tx, sizeof(struct xdp_desc));
	if (!result)
		result = ring_map(
			afxdp, &afxdp->fill, (off_t)XDP_UMEM_PGOFF_FILL_RING, &offsets.fr, sizeof(uint64_t));
	if (!result)
		result = ring_map(afxdp, &afxdp->done, (off_t)XDP_UMEM_PGOFF_COMPLETION_RING, &offsets.cr,
			sizeof(uint64_t));
	return result;
}

/* Binds with the flags given; waits a while for a queue that is just being released. */
static int bind_try(struct afxdp *afxdp, int ifindex, uint32_t queue, uint32_t flags)
{
	struct sockaddr_xdp address = {.sxdp_family = AF_XDP,
		.sxdp_flags = (uint16_t)(flags | XDP_USE_NEED_WAKEUP),
		.sxdp_ifindex = (uint32_t)ifindex,
		.sxdp_queue_id = queue};
	const struct timespec pause = {.tv_nsec = 20 * 1000 * 1000};

	for (unsigned i = 0; i < BIND_TRIES; i++) {
		if (!bind(afxdp->fd, (struct sockaddr *)&address, sizeof(address)))
			return 0;
		if (errno != EBUSY)
			return -errno;
		nanosleep(&pause, NULL);
	}
	return -EBUSY;
}

static int socket_bind(struct afxdp *afxdp, const struct afxdp_config *config, int ifindex, bool native,
	struct notes *notes, struct device_error *err)
{
	static const uint32_t ways[] = {
		XDP_ZEROCOPY | AFXDP_USE_SG, XDP_ZEROCOPY, XDP_COPY | AFXDP_USE_SG, XDP_COPY};
	int result = -EINVAL;

	for (unsigned i = config->zero_copy && native ? 0 : 2; i < ARRAY_SIZE(ways); i++) {
		result = bind_try(afxdp, ifindex, config->queue, ways[i]);
		if (result == -EBUSY)
			return device_fail(err, result, "%s: queue %u is in use by another AF_XDP socket",
				afxdp->dev.name, config->queue);
		if (result)
			continue;
		afxdp->multi = ways[i] & AFXDP_USE_SG;
		if (config->zero_copy && i >= 2)
			note_add(notes, "no zero copy here, frames are copied");
		/* What a driver's own metadata support covers is not ours to know: leave checksums to
		 * software. */
		if (i < 2)
			afxdp->metadata = false;
		return 0;
	}
	return device_fail(err, result, "%s: cannot bind to queue %u: %s%s", afxdp->dev.name, config->queue,
		strerror(-result),
		result == -EINVAL ? " (the interface may have fewer queues: ethtool -l)" : "");
}

static int memory_make(struct afxdp *afxdp, uint32_t frames)
{
	uint32_t tx = frames / 2 < AFXDP_TX_CHUNKS ? frames / 2 : AFXDP_TX_CHUNKS;

	afxdp->rx_slots = frames - tx;
	afxdp->umem_bytes = (size_t)frames * afxdp->chunk;
	afxdp->umem =
		mmap(NULL, afxdp->umem_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (afxdp->umem == MAP_FAILED) {
		afxdp->umem = NULL;
		return -ENOMEM;
	}
	afxdp->rx_home = malloc(afxdp->rx_slots);
	afxdp->tx_free.free = calloc(tx, sizeof(uint64_t));
	if (!afxdp->rx_home || !afxdp->tx_free.free)
		return -ENOMEM;
	memset(afxdp->rx_home, 1, afxdp->rx_slots);
	afxdp->rx_home_count = afxdp->rx_slots;
	for (uint32_t i = 0; i < tx; i++)
		afxdp->tx_free.free[afxdp->tx_free.count++] = (uint64_t)(frames - 1 - i) * afxdp->chunk;
	return 0;
}

/* What the modes that came out mean for the MTU and the capabilities. */
static int abilities_settle(struct afxdp *afxdp, bool native, struct notes *notes)
{
	uint32_t chunk_mtu = afxdp->chunk - AFXDP_HEADROOM - 14 - 4;

	afxdp->piece = afxdp->chunk - AFXDP_METADATA;
	afxdp->dev.caps = DEVICE_TX_GATHER;
	if (afxdp->trust_checksum)
		afxdp->dev.caps |= DEVICE_RX_CSUM;
	if (afxdp->metadata)
		afxdp->dev.caps |= DEVICE_TX_CSUM;
	if (!afxdp->multi) {
		note_add(notes, "no packets of several buffers here");
		if (afxdp->dev.mtu > chunk_mtu)
			afxdp->dev.mtu = chunk_mtu;
		return 0;
	}
	if (!native)
		afxdp->dev.caps |= DEVICE_RX_COALESCED;
	afxdp->tx_linear = afxdp->dev.mtu + 128 > afxdp->piece;
	return buffers_init(&afxdp->linear, AFXDP_LINEAR_COUNT, AFXDP_LINEAR_BYTES);
}

static int config_check(const struct afxdp_config *config, uint32_t frames, struct device_error *err)
{
	if (frames && (frames & (frames - 1) || frames < 64 || frames > FRAMES_MAX))
		return device_fail(err, -EINVAL, "%u frames: must be a power of two between 64 and %u",
			frames, FRAMES_MAX);
	if (config->addr_count > ARRAY_SIZE(config->addr))
		return device_fail(err, -EINVAL, "%u addresses are more than %zu", config->addr_count,
			ARRAY_SIZE(config->addr));
	for (uint32_t i = 0; i < config->addr_count; i++)
		if (!config->addr[i])
			return device_fail(err, -EINVAL, "0.0.0.0 is no address to receive for");
	return 0;
}

int afxdp_open(const struct afxdp_config *config, struct device **out, struct device_error *err)
{
	uint32_t frames = config->frames;
	struct notes notes = {0};
	struct afxdp *afxdp;
	bool native = false;
	int ifindex = 0, map, result = config_check(config, frames, err);

	if (result)
		return result;
	afxdp = calloc(1, sizeof(*afxdp));
	if (!afxdp)
		return device_fail(err, -ENOMEM, "out of memory");
	afxdp->dev.ops = &afxdp_ops;
	afxdp->link_fd = -1;
	afxdp->trust_checksum = config->trust_checksum;
	afxdp->fd = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0);
	if (afxdp->fd < 0) {
		result = device_fail(err, -errno, "cannot open an AF_XDP socket: %s%s", strerror(errno),
			errno == EPERM ? " (needs CAP_NET_RAW)" : "");
		goto fail;
	}
	result = interface_read(afxdp, config->interface, &ifindex, err);
	if (result)
		goto fail;
	result = program_attach(afxdp, config, ifindex, &native, &notes, err);
	if (result)
		goto fail;
	/* In generic mode a peer's 64 KiB segments come whole. */
	afxdp->chunk =
		native && !config->zero_copy && afxdp->dev.mtu + 14 + 4 <= AFXDP_CHUNK_SMALL - AFXDP_HEADROOM
			? AFXDP_CHUNK_SMALL
			: AFXDP_CHUNK;
	if (!frames)
		frames = UMEM_DEFAULT / afxdp->chunk;
	if (memory_make(afxdp, frames)) {
		result = device_fail(err, -ENOMEM, "no memory for %u frames", frames);
		goto fail;
	}
	result = umem_register(afxdp, config->zero_copy, &notes, err);
	if (result)
		goto fail;
	/* Beyond the system's limit it takes CAP_NET_ADMIN; without, the limit does. */
	(void)setsockopt(afxdp->fd, SOL_SOCKET, SO_SNDBUFFORCE, &(int){SEND_BYTES}, sizeof(int));
	result = rings_make(afxdp);
	if (result) {
		device_fail(err, result, "cannot make the rings of an AF_XDP socket: %s", strerror(-result));
		goto fail;
	}
	result = socket_bind(afxdp, config, ifindex, native, &notes, err);
	if (result)
		goto fail;
	if (abilities_settle(afxdp, native, &notes)) {
		result = device_fail(err, -ENOMEM, "out of memory for long packets");
		goto fail;
	}
	/* Buffers first, then the frames that need them. */
	afxdp->dev.ops->wait_begin(&afxdp->dev);
	map = bpf_object__find_map_fd_by_name(afxdp->object, "sockets");
	if (map < 0 || bpf_map_update_elem(map, &config->queue, &afxdp->fd, BPF_ANY)) {
		result = device_fail(err, -errno, "%s: cannot steer queue %u to us: %s", afxdp->dev.name,
			config->queue, strerror(errno));
		goto fail;
	}
	afxdp->dev.wait_fd = afxdp->fd;
	if (err)
		snprintf(err->text, sizeof(err->text), "%s", notes.text);
	*out = &afxdp->dev;
	return 0;
fail:
	afxdp_ops.close(&afxdp->dev);
	return result;
}
