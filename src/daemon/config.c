/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Reads the configuration. Called once by main.c before anything else exists. A line is a keyword and words
 * behind it, '#' starts a comment, "double quotes" keep blanks in a word. One table lists all settings; the
 * file, the flags and --help are made from it. Statements with a grammar of their own (device, address,
 * route) are in config_device.c. It opens no device and checks nothing outside the text.
 */
#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "core/platform.h"
#include "daemon/config_parse.h"

static int take_number(struct config_parse *p, const struct config_setting *s, void *field);
static int take_number_auto(struct config_parse *p, const struct config_setting *s, void *field);
static int take_size(struct config_parse *p, const struct config_setting *s, void *field);
static int take_buffer(struct config_parse *p, const struct config_setting *s, void *field);
static int take_octal(struct config_parse *p, const struct config_setting *s, void *field);
static int take_choice(struct config_parse *p, const struct config_setting *s, void *field);
static int take_text(struct config_parse *p, const struct config_setting *s, void *field);
static int take_ports(struct config_parse *p, const struct config_setting *s, void *field);

#define AT(field) offsetof(struct config, field)

static const struct config_setting settings[] = {
	{"device", config_take_device, 0, 0, 0, "tap|afxdp|dpdk|link NAME [OPTION VALUE]...",
		"a device to serve on; see docs/configuration.md for the options of each"},
	{"address", config_take_address, 0, 0, 0, "ADDR/LEN [device NAME]",
		"an address of the engine, on the device named or the one before"},
	{"route", config_take_route, 0, 0, 0, "PREFIX/LEN via GATEWAY | PREFIX/LEN device NAME",
		"a route beside those of the addresses' own links"},
	{"socket", take_text, AT(socket), 1, 107, "PATH", "where applications attach"},
	{"socket-mode", take_octal, AT(socket_mode), 0, 0777, "OCTAL",
		"who may attach: permissions of the socket"},
	{"socket-group", take_text, AT(socket_group), 0, 63, "GROUP", "group of the socket"},
	{"conns", take_number, AT(conns), 16, 4194303, "N", "connections there can be at once"},
	{"apps", take_number, AT(apps), 1, 65535, "N", "applications there can be at once"},
	{"contexts", take_number, AT(contexts), 1, 65534, "N",
		"contexts (threads doing I/O) of all applications"},
	{"out-of-order", take_number_auto, AT(ooo), 1, 4194303, "N",
		"connections that can hold out-of-order data at once (auto: by conns)"},
	{"region", take_size, AT(region_bytes), 1u << 24, 1ull << 44, "BYTES",
		"address space of an application's buffers; memory is used only as it is touched"},
	{"hugepages", take_choice, AT(hugepages), 0, 0, "off|on",
		"on: each application's region is taken whole from the kernel's hugepages at its start"},
	{"rx-buffer", take_buffer, AT(rx_buffer), 12, 30, "BYTES",
		"receive buffer of a connection, a power of two"},
	{"tx-buffer", take_buffer, AT(tx_buffer), 12, 30, "BYTES",
		"transmit buffer of a connection, a power of two"},
	{"ports", take_ports, AT(port_low), 1, 65535, "LOW-HIGH",
		"ports the engine picks from for connect()"},
	{"time-wait-ms", take_number, AT(time_wait_ms), 1, 600000, "MS", "how long TIME-WAIT lasts"},
	{"time-wait-max", take_number, AT(time_wait_max), 1, 16777216, "N",
		"connections kept in TIME-WAIT; the oldest goes"},
	{"all-routes", take_choice, AT(all_routes), 0, 0, "off|on",
		"on: connect() to everything the routes reach goes through the engine, not only its own "
		"links"},
	{"loop", take_choice, AT(loop), 0, 0, "off|on", "connections between the engine's own addresses"},
	{"congestion", take_choice, AT(congestion), 0, 0, "reno|cubic|dctcp",
		"congestion control of sockets that ask for none (TCP_CONGESTION)"},
	{"ecn", take_choice, AT(ecn), 0, 0, "off|on|passive",
		"explicit congestion notification: never; connect() asks for it; only when the peer asks"},
	{"core", take_number_auto, AT(core), 0, 1023, "N", "pin the engine to this core (auto: not pinned)"},
	{"nice", take_number, AT(nice), 0, 20, "N",
		"raise the engine's scheduling priority by N (0: leave it)"},
	{"idle", take_choice, AT(idle), 0, 0, "sleep|yield|spin",
		"without work: sleep after spin-us; the same, giving the core away between looks; never "
		"sleep"},
	{"spin-us", take_number_auto, AT(spin_us), 0, 1000000, "US",
		"how long the engine looks for work before it sleeps (auto: 50; with up to 2 cores 0 while "
		"an application is awake)"},
	{"app-spin-us", take_number_auto, AT(app_spin_us), 0, 1000000, "US",
		"how long a waiting application looks before it sleeps (auto: as spin-us)"},
	{"poll-us", take_number, AT(poll_us), 0, 100000, "US",
		"how long to sleep at a time beside a device that cannot wake us; 0: never sleep then"},
	{"log", take_text, AT(log), 1, 255, "stderr|syslog|FILE", "where log lines go"},
	{"log-level", take_choice, AT(log_level), 0, 0, "error|warning|info|debug", "which of them"},
	{"prometheus", take_text, AT(prometheus), 0, 107, "ADDR:PORT|PATH|off",
		"serve the counters over HTTP on a kernel TCP address or a UNIX socket"},
};

int config_fail(struct config_parse *p, const char *format, ...)
{
	va_list ap;
	int n = 0;

	if (p->where->line != 0)
		n = snprintf(p->err->text, sizeof(p->err->text), "%s:%u: ", p->where->file, p->where->line);
	else if (p->where->file[0] != '\0')
		n = snprintf(p->err->text, sizeof(p->err->text), "--%s: ", p->where->file);
	va_start(ap, format);
	vsnprintf(p->err->text + n, sizeof(p->err->text) - (size_t)n, format, ap);
	va_end(ap);
	return -EINVAL;
}

const char *config_word(struct config_parse *p)
{
	return p->next < p->count ? p->word[p->next++] : NULL;
}

int config_number(
	struct config_parse *p, const char *what, const char *text, uint64_t min, uint64_t max, uint64_t *out)
{
	char *end;
	unsigned long long v;

	errno = 0;
	v = text == NULL || !isdigit((unsigned char)text[0]) ? ULLONG_MAX : strtoull(text, &end, 10);
	if (text == NULL || !isdigit((unsigned char)text[0]) || *end != '\0' || errno != 0 || v < min ||
		v > max)
		return config_fail(p, "%s is '%s'; a number from %llu to %llu is allowed", what,
			text ? text : "", (unsigned long long)min, (unsigned long long)max);
	*out = v;
	return 0;
}

/* Copies a word into a field of `room` bytes. */
int config_text(struct config_parse *p, const char *what, const char *text, char *out, size_t room)
{
	if (text == NULL || strlen(text) >= room)
		return config_fail(p, "%s is %s; up to %zu characters are allowed", what,
			text == NULL ? "missing" : "too long", room - 1);
	memcpy(out, text, strlen(text) + 1);
	return 0;
}

/* Index of text among the choices "a|b|c", or -1. */
static int choice_index(const char *choices, const char *text)
{
	size_t len = strlen(text);

	for (int i = 0;; i++) {
		const char *bar = strchr(choices, '|');
		size_t n = bar != NULL ? (size_t)(bar - choices) : strlen(choices);

		if (n == len && memcmp(choices, text, n) == 0)
			return i;
		if (bar == NULL)
			return -1;
		choices = bar + 1;
	}
}

int config_switch(struct config_parse *p, const char *what, const char *text, bool *out)
{
	int i = text != NULL ? choice_index("off|on", text) : -1;

	if (i < 0)
		return config_fail(p, "%s is '%s'; on or off is allowed", what, text ? text : "");
	*out = i == 1;
	return 0;
}

static int take_number(struct config_parse *p, const struct config_setting *s, void *field)
{
	return config_number(p, s->name, config_word(p), s->min, s->max, field);
}

/* A number, or "auto" for the engine's choice. */
static int take_number_auto(struct config_parse *p, const struct config_setting *s, void *field)
{
	if (p->next < p->count && strcmp(p->word[p->next], "auto") == 0) {
		p->next++;
		*(uint64_t *)field = CONFIG_AUTO;
		return 0;
	}
	return take_number(p, s, field);
}

/* Bytes, with K, M or G behind for powers of 1024. */
static int size_parse(const char *text, uint64_t *out)
{
	static const char units[] = "KMGT";
	unsigned shift = 0;
	char *end;
	unsigned long long v;

	if (text == NULL || !isdigit((unsigned char)text[0]))
		return -EINVAL;
	errno = 0;
	v = strtoull(text, &end, 10);
	if (errno != 0)
		return -ERANGE;
	if (*end != '\0') {
		const char *unit = strchr(units, toupper((unsigned char)*end));

		if (unit == NULL || end[1] != '\0')
			return -EINVAL;
		shift = 10u * (unsigned)(unit - units + 1);
	}
	if (v > (UINT64_MAX >> shift))
		return -ERANGE;
	*out = (uint64_t)v << shift;
	return 0;
}

static int take_size(struct config_parse *p, const struct config_setting *s, void *field)
{
	const char *text = config_word(p);
	uint64_t v;

	if (size_parse(text, &v) != 0 || v < s->min || v > s->max)
		return config_fail(p, "%s is '%s'; %lluM to %lluG is allowed", s->name, text ? text : "",
			(unsigned long long)(s->min >> 20), (unsigned long long)(s->max >> 30));
	*(uint64_t *)field = v;
	return 0;
}

/* A buffer's size; s->min and s->max are shifts. */
static int take_buffer(struct config_parse *p, const struct config_setting *s, void *field)
{
	const char *text = config_word(p);
	uint64_t v;

	if (size_parse(text, &v) != 0 || (v & (v - 1)) != 0 || v < 1ull << s->min || v > 1ull << s->max)
		return config_fail(p, "%s is '%s'; a power of two from %lluK to %lluM is allowed", s->name,
			text ? text : "", 1ull << (s->min - 10), 1ull << (s->max - 20));
	*(uint64_t *)field = v;
	return 0;
}

static int take_octal(struct config_parse *p, const struct config_setting *s, void *field)
{
	const char *text = config_word(p);
	char *end;
	unsigned long v;

	if (text == NULL || !isdigit((unsigned char)text[0]) || (v = strtoul(text, &end, 8)) > s->max ||
		*end != '\0')
		return config_fail(
			p, "%s is '%s'; an octal number from 0 to 777 is allowed", s->name, text ? text : "");
	*(uint64_t *)field = v;
	return 0;
}

static int take_choice(struct config_parse *p, const struct config_setting *s, void *field)
{
	const char *text = config_word(p);
	int i = text != NULL ? choice_index(s->takes, text) : -1;

	if (i < 0)
		return config_fail(p, "%s is '%s'; %s is allowed", s->name, text ? text : "", s->takes);
	*(uint64_t *)field = (uint64_t)i;
	return 0;
}

static int take_text(struct config_parse *p, const struct config_setting *s, void *field)
{
	const char *text = config_word(p);

	if (text == NULL || strlen(text) < s->min || strlen(text) > s->max)
		return config_fail(p, "%s is '%s'; %s of %llu to %llu characters is allowed", s->name,
			text ? text : "", s->takes, (unsigned long long)s->min, (unsigned long long)s->max);
	memcpy(field, text, strlen(text) + 1);
	return 0;
}

static int take_ports(struct config_parse *p, const struct config_setting *s, void *field)
{
	const char *text = config_word(p);
	unsigned low, high;
	char rest;

	if (text == NULL || sscanf(text, "%5u-%5u%c", &low, &high, &rest) != 2 || low < s->min ||
		high > s->max || low > high)
		return config_fail(
			p, "%s is '%s'; two numbers like 32768-60999 are allowed", s->name, text ? text : "");
	((uint64_t *)field)[0] = low;
	((uint64_t *)field)[1] = high;
	return 0;
}

/* Cuts text into words in place. */
static int words_split(struct config_parse *p, char *text)
{
	p->count = 0;
	p->next = 0;
	for (char *c = text;;) {
		while (*c != '\0' && isspace((unsigned char)*c))
			c++;
		if (*c == '\0' || *c == '#')
			return 0;
		if (p->count == CONFIG_WORDS_MAX)
			return config_fail(p, "more than %u words", CONFIG_WORDS_MAX);
		if (*c == '"') {
			char *end = strchr(++c, '"');

			if (end == NULL)
				return config_fail(p, "a quote that does not end");
			p->word[p->count++] = c;
			*end = '\0';
			c = end + 1;
			continue;
		}
		p->word[p->count++] = c;
		while (*c != '\0' && !isspace((unsigned char)*c))
			c++;
		if (*c != '\0')
			*c++ = '\0';
	}
}

static const struct config_setting *setting_find(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(settings); i++)
		if (strcmp(settings[i].name, name) == 0)
			return &settings[i];
	return NULL;
}

static int setting_take(struct config_parse *p, const struct config_setting *s)
{
	int rc = s->take(p, s, (char *)p->config + s->offset);

	if (rc == 0 && p->next < p->count)
		return config_fail(
			p, "%s: '%s' is too much; it takes %s", s->name, p->word[p->next], s->takes);
	return rc;
}

int config_read(struct config *config, const char *path, struct config_error *err)
{
	struct config_where where = {.line = 0};
	struct config_parse p = {.config = config, .where = &where, .err = err};
	FILE *file = fopen(path, "re");
	char line[1024];
	int rc = 0;

	if (file == NULL) {
		rc = -errno;
		snprintf(err->text, sizeof(err->text), "cannot read %s: %s", path, strerror(errno));
		return rc;
	}
	snprintf(where.file, sizeof(where.file), "%s", path);
	while (rc == 0 && fgets(line, sizeof(line), file) != NULL) {
		const struct config_setting *s;

		where.line++;
		if (strchr(line, '\n') == NULL && !feof(file)) {
			rc = config_fail(&p, "the line is longer than %zu characters", sizeof(line) - 2);
			break;
		}
		rc = words_split(&p, line);
		if (rc != 0 || p.count == 0)
			continue;
		s = setting_find(config_word(&p));
		rc = s != NULL ? setting_take(&p, s)
			       : config_fail(
					 &p, "'%s' is not a setting; flextoed --help lists them", p.word[0]);
	}
	if (rc == 0 && ferror(file)) {
		rc = -EIO;
		snprintf(err->text, sizeof(err->text), "cannot read %s: it is not a readable file", path);
	}
	fclose(file);
	return rc;
}

int config_set(struct config *config, const char *name, const char *value, struct config_error *err)
{
	struct config_where where = {.line = 0};
	struct config_parse p = {.config = config, .where = &where, .err = err};
	const struct config_setting *s = setting_find(name);
	char line[1024];
	int rc;

	if (s == NULL)
		return -ENOENT;
	snprintf(where.file, sizeof(where.file), "%s", name);
	if (strlen(value) >= sizeof(line))
		return config_fail(&p, "the value is longer than %zu characters", sizeof(line) - 1);
	memcpy(line, value, strlen(value) + 1);
	rc = words_split(&p, line);
	return rc != 0 ? rc : setting_take(&p, s);
}

void config_defaults(struct config *config)
{
	memset(config, 0, sizeof(*config));
	strcpy(config->socket, "/run/flextoe.sock");
	config->socket_mode = 0660;
	config->conns = 65536;
	config->apps = 256;
	config->contexts = 1024;
	config->ooo = CONFIG_AUTO;
	config->region_bytes = 16ull << 30;
	config->rx_buffer = 256u << 10;
	config->tx_buffer = 256u << 10;
	config->port_low = 32768;
	config->port_high = 60999;
	config->time_wait_ms = 60000;
	config->time_wait_max = 65536;
	config->loop = 1;
	config->congestion = FLEXTOE_CONGESTION_CUBIC - 1;
	config->ecn = 2;
	config->core = CONFIG_AUTO;
	config->idle = CONFIG_IDLE_SLEEP;
	config->spin_us = CONFIG_AUTO;
	config->app_spin_us = CONFIG_AUTO;
	config->poll_us = 50;
	strcpy(config->log, "stderr");
	config->log_level = CONFIG_LOG_INFO;
	strcpy(config->prometheus, "off");
}

void config_help(FILE *out)
{
	for (size_t i = 0; i < ARRAY_SIZE(settings); i++)
		fprintf(out, "  --%s %s\n        %s\n", settings[i].name, settings[i].takes,
			settings[i].help);
}
