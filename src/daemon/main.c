/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * flextoed, the engine's process. Reads flags and the configuration, then hands over to engine.c until a
 * signal ends it. Exit status: 0 after a clean stop, 1 when it could not start, 2 for wrong usage.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "daemon/config.h"
#include "daemon/engine.h"
#include "daemon/log.h"

static void help(FILE *out)
{
	fputs("usage: flextoed [--config FILE] [--SETTING VALUE]...\n"
	      "\n"
	      "Serves TCP for applications started with `flextoe run`. Example:\n"
	      "  flextoed --device \"tap ft0 peer 10.9.0.1/24\" --address 10.9.0.2/24\n"
	      "\n"
	      "  -c, --config FILE   settings, one \"name value\" a line (without flags: " CONFIG_FILE_DEFAULT
	      ")\n"
	      "      --check         read the settings, say whether they are right, and exit\n"
	      "      --ready-fd N    write a byte to descriptor N when applications can attach\n"
	      "  -h, --help          this text\n"
	      "  -V, --version       the version\n"
	      "\n"
	      "Settings, as flags or in the file (flags win; device, address and route add up):\n",
		out);
	config_help(out);
}

static int usage(const char *text, const char *what)
{
	fprintf(stderr, "flextoed: %s%s; flextoed --help lists all flags\n", text, what);
	return 2;
}

struct flags {
	const char *config_path;
	bool check, any_setting;
	int ready_fd;
};

/* First pass: flags that are not settings, and the file, which the settings among the flags then override. */
static int flags_parse(int argc, char **argv, struct config *config, struct flags *flags, bool settings,
	struct config_error *err)
{
	for (int i = 1; i < argc; i++) {
		const char *arg = argv[i];
		const char *equals = strchr(arg, '=');
		const char *value;
		char name[64];
		int rc;

		if (strcmp(arg, "--check") == 0) {
			flags->check = true;
			continue;
		}
		if (strcmp(arg, "-c") == 0)
			arg = "--config";
		if (strncmp(arg, "--", 2) != 0 || arg[2] == '\0')
			return usage("unexpected word: ", arg);
		if (equals == NULL)
			equals = arg + strlen(arg);
		if ((size_t)(equals - arg - 2) >= sizeof(name))
			return usage("unknown flag: ", arg);
		snprintf(name, sizeof(name), "%.*s", (int)(equals - arg - 2), arg + 2);
		value = *equals == '=' ? equals + 1 : i + 1 < argc ? argv[++i] : NULL;
		if (value == NULL)
			return usage("a value is missing behind ", arg);
		if (strcmp(name, "config") == 0) {
			flags->config_path = value;
		} else if (strcmp(name, "ready-fd") == 0) {
			char *end;
			long fd = strtol(value, &end, 10);

			if (*value == '\0' || *end != '\0' || fd < 0 || fd > 65535)
				return usage("--ready-fd takes a descriptor's number, not ", value);
			flags->ready_fd = (int)fd;
		} else if (!settings) {
			flags->any_setting = true;
		} else {
			rc = config_set(config, name, value, err);
			if (rc == -ENOENT)
				return usage("unknown flag: --", name);
			if (rc != 0) {
				fprintf(stderr, "flextoed: %s\n", err->text);
				return 2;
			}
		}
	}
	return 0;
}

/* An application takes a descriptor, and each of its threads one more: the usual 1024 are soon used up. */
static void descriptors_raise(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

int main(int argc, char **argv)
{
	static struct config config;
	struct flags flags = {.ready_fd = -1};
	struct config_error err = {""};
	int rc;

	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "-h") == 0 || strcmp(argv[i], "--help") == 0) {
			help(stdout);
			return 0;
		}
		if (strcmp(argv[i], "-V") == 0 || strcmp(argv[i], "--version") == 0) {
			puts("flextoed " FLEXTOE_VERSION);
			return 0;
		}
	}
	descriptors_raise();
	config_defaults(&config);
	rc = flags_parse(argc, argv, &config, &flags, false, &err);
	if (rc != 0)
		return rc;
	if (flags.config_path == NULL && !flags.any_setting)
		flags.config_path = CONFIG_FILE_DEFAULT;
	if (flags.config_path != NULL && config_read(&config, flags.config_path, &err) != 0) {
		fprintf(stderr, "flextoed: %s\n", err.text);
		return 2;
	}
	rc = flags_parse(argc, argv, &config, &flags, true, &err);
	if (rc != 0)
		return rc;
	if (config_finish(&config, &err) != 0) {
		fprintf(stderr, "flextoed: %s\n", err.text);
		return 2;
	}
	if (flags.check) {
		printf("the settings are right: %u device%s, %u address%s, %u route%s\n", config.device_count,
			config.device_count == 1 ? "" : "s", config.address_count,
			config.address_count == 1 ? "" : "es", config.route_count,
			config.route_count == 1 ? "" : "s");
		return 0;
	}
	rc = log_open(config.log, (enum config_log_level)config.log_level);
	if (rc != 0) {
		fprintf(stderr, "flextoed: cannot write the log %s: %s\n", config.log, strerror(-rc));
		return 1;
	}
	rc = engine_run(&config, flags.ready_fd, &err);
	if (rc != 0) {
		if (strcmp(config.log, "stderr") != 0)
			log_line(CONFIG_LOG_ERROR, "%s", err.text);
		fprintf(stderr, "flextoed: %s\n", err.text);
		return 1;
	}
	return 0;
}
