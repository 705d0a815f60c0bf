package app

import (
	"strings"

	"github.com/compose-spec/compose-go/v2/tree"
)

// supportedAttributes lists what the translation reads, or what is right to
// ignore because it is what happens anyway. Everything else in a Compose file is
// reported, including what the specification gains in the future.
func supportedAttributes() []tree.Path {
	var paths []tree.Path
	for line := range strings.Lines(supported) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		prefix, names, ok := strings.Cut(line, ": ")
		if !ok {
			paths = append(paths, tree.Path(line))
			continue
		}
		for _, name := range strings.Fields(names) {
			paths = append(paths, tree.Path(prefix+"."+name))
		}
	}
	return paths
}

const supported = `
name
version
services
services.*
services.*: annotations annotations.* build cap_add cap_add.* cap_drop cap_drop.* command command.* configs container_name
services.*: cpus depends_on deploy develop dns dns.* dns_opt dns_opt.* dns_search dns_search.* entrypoint entrypoint.*
services.*: env_file env_file.* environment environment.* expose expose.* extends extra_hosts extra_hosts.* group_add group_add.*
services.*: healthcheck hostname image ipc label_file labels labels.* links links.* mem_limit mem_reservation
services.*: network_mode networks pid platform ports post_start pre_stop privileged profiles profiles.* pull_policy
services.*: read_only restart runtime scale secrets security_opt security_opt.* shm_size stdin_open stop_grace_period
services.*: stop_signal sysctls sysctls.* tmpfs tmpfs.* tty user volumes working_dir attach
services.*: provider volumes_from pre_start models
services.*.provider: *
services.*.models: *
services.*.develop: *
services.*.extends: *
services.*.env_file.[]: path required format
services.*.build: additional_contexts additional_contexts.* args args.* context dockerfile dockerfile_inline labels labels.*
services.*.build: no_cache target secrets cache_from cache_to tags pull
services.*.build.secrets.[]: source target
services.*.configs.[]: source target mode
services.*.secrets.[]: source target mode
services.*.depends_on: *
services.*.depends_on.*: condition required restart
services.*.deploy: mode replicas labels labels.* resources update_config restart_policy
services.*.deploy.resources: limits reservations
services.*.deploy.resources.limits: cpus memory
services.*.deploy.resources.reservations: cpus memory
services.*.deploy.update_config: order parallelism delay
services.*.deploy.restart_policy: condition max_attempts
services.*.healthcheck: disable interval retries start_interval start_period test test.* timeout
services.*.networks: *
services.*.networks.*: aliases use_service_name_alias
services.*.ports.[]: app_protocol host_ip mode name protocol published target
services.*.post_start.[]: command command.*
services.*.pre_stop.[]: command command.*
services.*.volumes.[]: bind read_only source target tmpfs type volume consistency
services.*.volumes.[].bind: create_host_path propagation selinux
services.*.volumes.[].tmpfs: size
services.*.volumes.[].volume: subpath nocopy
networks
networks.*
networks.*: name driver ipam external attachable labels labels.* internal driver_opts driver_opts.* enable_ipv4 enable_ipv6
volumes
volumes.*
volumes.*: name driver driver_opts driver_opts.size external external.name labels labels.*
secrets
secrets.*
secrets.*: name file environment content external external.name labels labels.*
configs
configs.*
configs.*: name file environment content external external.name labels labels.*
`
