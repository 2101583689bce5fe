// SPDX-License-Identifier: BSD-3-Clause
/*
 * `loss`: one stream in one direction over a path that drops frames at random, both ways. A namespace in the
 * middle bridges the client's link to the server's; it cuts super-segments into frames, and frames are
 * dropped where they leave it and where they enter it from the client. So neither end knows of a drop, and
 * what is lost is a segment of one MTU, for FlexTOE and for kernel TCP alike. Kernel TCP is set to Reno, as
 * FlexTOE is.
 */
#include <errno.h>

#include "bench/lab.h"
#include "core/platform.h"

#define REPETITIONS_MAX 15u

/* Puts the middle between the client and one server: `port` is the server's link, which the client had. */
static int middle_join(struct lab *lab, const char *port, const char *addr, char k)
{
	const char *c = lab->client_ns, *m = lab->middle_ns;

	if (lab_run("ip -n %s link set dev %s netns %s", c, port, m) ||
		lab_run("ip link add loss%c netns %s type veth peer name mid%c netns %s", k, c, k, m) ||
		lab_run("ip -n %s link add bridge%c type bridge", m, k) ||
		lab_run("ip -n %s link set dev mid%c master bridge%c", m, k, k) ||
		lab_run("ip -n %s link set dev %s master bridge%c", m, port, k) ||
		lab_run("ip netns exec %s ethtool -K mid%c tso off gso off", m, k) ||
		lab_run("ip netns exec %s ethtool -K loss%c tso off gso off gro off", c, k) ||
		lab_run("ip -n %s link set dev bridge%c up", m, k) ||
		lab_run("ip -n %s link set dev mid%c up", m, k) ||
		lab_run("ip -n %s link set dev %s up", m, port) ||
		lab_run("ip -n %s link set dev loss%c up", c, k) ||
		lab_run("ip -n %s addr add %s dev loss%c", c, addr, k))
		return -EIO;
	/* two chains a link: out of the middle (the client's ingress), and into it */
	if (lab_run("ip netns exec %s nft add chain netdev loss %c { type filter hook ingress device loss%c "
		    "priority 0 ; }",
		    c, k, k) ||
		lab_run("ip netns exec %s nft add chain netdev loss %c { type filter hook ingress device "
			"mid%c "
			"priority 0 ; }",
			m, k, k))
		return -EIO;
	return 0;
}

static int middle_make(struct lab *lab)
{
	const char *spaces[] = {lab->client_ns, lab->server_ns, lab->middle_ns};
	char tap[16];

	if (lab_run("ip netns add %s", lab->middle_ns))
		return -EIO;
	for (unsigned i = 0; i < ARRAY_SIZE(spaces); i++)
		if (lab_run("ip netns exec %s sysctl -qw net.ipv4.tcp_congestion_control=reno "
			    "net.ipv4.tcp_no_metrics_save=1",
			    spaces[i]) ||
			lab_run("ip netns exec %s nft add table netdev loss", spaces[i]))
			return -EIO;
	lab_tap_name(tap, sizeof(tap));
	if (middle_join(lab, "veth0", "10.77.1.1/24", 'k') || middle_join(lab, tap, "10.77.2.1/24", 'x'))
		return -EIO;
	return 0;
}

/* One frame in a thousand times `per_mille`, each way, on both links. */
static int middle_drop(const struct lab *lab, unsigned per_mille)
{
	const char *spaces[] = {lab->client_ns, lab->middle_ns};

	for (unsigned i = 0; i < ARRAY_SIZE(spaces); i++) {
		if (lab_run("ip netns exec %s nft flush table netdev loss", spaces[i]))
			return -EIO;
		for (const char *k = "kx"; *k && per_mille; k++)
			if (lab_run("ip netns exec %s nft add rule netdev loss %c ip protocol tcp numgen "
				    "random mod "
				    "1000 < %u drop",
				    spaces[i], *k, per_mille))
				return -EIO;
	}
	return 0;
}

static const struct {
	const char *name; /* the direction is the server's, which is where FlexTOE is */
	const char *server, *client;
	uint16_t port;
} ways[] = {{"receive", "sink", "send", 7000}, {"send", "source", "receive", 7001}};

static const struct {
	const char *name;
	unsigned per_mille;
} rates[] = {{"0", 0}, {"0.1", 1}, {"1", 10}, {"2", 20}};

static int servers_start(struct lab *lab, struct lab_child *servers[ARRAY_SIZE(ways)][LAB_SIDES])
{
	char program[512], listen[32];

	if (!bench_program("ft-echo", program, sizeof(program))) {
		fprintf(stderr, "flextoe bench: ft-echo is not there: build first\n");
		return -ENOENT;
	}
	for (unsigned w = 0; w < ARRAY_SIZE(ways); w++)
		for (unsigned side = 0; side < LAB_SIDES; side++) {
			snprintf(listen, sizeof(listen), "ADDR:%u", ways[w].port);
			servers[w][side] = lab_serve(lab, (enum lab_side)side,
				(const char *const[]){
					program, "--mode", ways[w].server, "--listen", listen, NULL},
				ways[w].port);
			if (!servers[w][side])
				return -EIO;
		}
	return 0;
}

static int case_run(struct bench_run *run, struct lab *lab, unsigned w, const char *name,
	struct lab_child *const servers[LAB_SIDES])
{
	struct lab_figures runs[LAB_SIDES][REPETITIONS_MAX], f[LAB_SIDES];
	unsigned repetitions = run->repetitions ? run->repetitions : 3;
	struct lab_load load = {.mode = ways[w].client,
		.port = ways[w].port,
		.connections = 1,
		.pipeline = 1,
		.size = 64,
		.warmup_s = 0.5,
		.seconds = run->seconds > 0 ? run->seconds : 2};
	int err;

	if (repetitions > REPETITIONS_MAX)
		repetitions = REPETITIONS_MAX;
	for (unsigned r = 0; r < repetitions; r++)
		for (unsigned side = 0; side < LAB_SIDES; side++) {
			bench_progress(run, "%s: %s, %u of %u", name,
				side == LAB_KERNEL ? "kernel TCP" : "FlexTOE", r + 1, repetitions);
			err = lab_measure(lab, (enum lab_side)side, servers[side], &load, &runs[side][r]);
			if (err)
				return err;
		}
	for (unsigned side = 0; side < LAB_SIDES; side++)
		lab_median(runs[side], repetitions, &f[side]);
	bench_add(run, name, "goodput", "Gbit/s", f[LAB_FLEXTOE].bytes_rate * 8 / 1e9,
		f[LAB_KERNEL].bytes_rate * 8 / 1e9);
	return 0;
}

static int loss_run(struct bench_run *run)
{
	struct lab_child *servers[ARRAY_SIZE(ways)][LAB_SIDES] = {{NULL}};
	struct lab lab;
	int err = lab_open(&lab, &lab_tap);

	if (!err)
		err = middle_make(&lab);
	if (!err)
		err = servers_start(&lab, servers);
	for (unsigned w = 0; !err && w < ARRAY_SIZE(ways); w++)
		for (unsigned i = 0; !err && i < ARRAY_SIZE(rates); i++) {
			char name[32];

			snprintf(name, sizeof(name), "%s-%s", ways[w].name, rates[i].name);
			if (!bench_wants(run, name))
				continue;
			err = middle_drop(&lab, rates[i].per_mille);
			if (!err)
				err = case_run(run, &lab, w, name, servers[w]);
		}
	lab_close(&lab);
	snprintf(run->note, sizeof(run->note),
		"One stream through a bridge that drops this percentage of the frames, each way; the "
		"direction is "
		"the server's.\nBaseline: kernel TCP (Reno) to kernel TCP over the same bridge.");
	return err;
}

extern const struct bench bench_loss;
const struct bench bench_loss = {
	"loss", "one stream over a path that drops 0 to 2 % of the frames, against kernel TCP", loss_run};
