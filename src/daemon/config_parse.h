/* SPDX-License-Identifier: BSD-3-Clause */
/* What config.c and config_device.c share: the words of one statement and the ways to read them. */
#ifndef DAEMON_CONFIG_PARSE_H
#define DAEMON_CONFIG_PARSE_H

#include "daemon/config.h"

#define CONFIG_WORDS_MAX 48u

struct config_parse {
	struct config *config;
	struct config_where *where;
	struct config_error *err;
	char *word[CONFIG_WORDS_MAX];
	unsigned count, next;
};

struct config_setting {
	const char *name;
	int (*take)(struct config_parse *p, const struct config_setting *s, void *field);
	size_t offset; /* of the field in struct config */
	uint64_t min, max;
	const char *takes; /* for people; for a choice the choices themselves */
	const char *help;
};

/* Writes "file:line: ..." into the error and returns -EINVAL. */
int config_fail(struct config_parse *p, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The next word, or NULL. */
const char *config_word(struct config_parse *p);
int config_number(struct config_parse *p, const char *what, const char *text, uint64_t min, uint64_t max,
	uint64_t *out);
int config_text(struct config_parse *p, const char *what, const char *text, char *out, size_t room);
int config_switch(struct config_parse *p, const char *what, const char *text, bool *out);

int config_take_device(struct config_parse *p, const struct config_setting *s, void *field);
int config_take_address(struct config_parse *p, const struct config_setting *s, void *field);
int config_take_route(struct config_parse *p, const struct config_setting *s, void *field);

#endif
