{{/* The program's configuration as the backend reads it: `config`, and what the chart knows better. */}}
{{- define "dub5.config" -}}
{{- $server := dict "host" .Values.listenAddress "port" 8000 "operations_port" 9000 }}
{{- $config := mustMergeOverwrite (deepCopy (default dict .Values.config)) (dict "server" $server) }}
{{- if .Values.auth.anonymous }}
{{- $_ := set $config "auth" (dict "anonymous" true) }}
{{- $_ := set $config.server "allowed_hosts" (include "dub5.config.hosts" . | fromYamlArray) }}
{{- else }}
{{- $_ := set $config "auth" (dict "keys" (dict "file" "/etc/dub5/keys/keys.yaml")) }}
{{- end }}
{{- if ne .Values.redis.mode "none" }}
{{- $_ := set $config "redis" (include "dub5.config.redis" . | fromYaml) }}
{{- end }}
{{- toYaml $config }}
{{- end }}

{{/* By which names pods are called: those of the Services and routes, and those of `config`. Scrapes and probes call them
by their address, which pods know themselves. */}}
{{- define "dub5.config.hosts" -}}
{{- $hosts := list }}
{{- range $name := list (include "dub5.fullname" .) (include "dub5.operations.fullname" .) }}
{{- $inside := printf "%s.%s" $name $.Release.Namespace }}
{{- $hosts = concat $hosts (list $name $inside (printf "%s.svc" $inside) (printf "%s.svc.cluster.local" $inside)) }}
{{- end }}
{{- if .Values.ingress.enabled }}{{ $hosts = concat $hosts .Values.ingress.hosts }}{{ end }}
{{- if .Values.httpRoute.enabled }}{{ $hosts = concat $hosts .Values.httpRoute.hostnames }}{{ end }}
{{- concat $hosts (dig "server" "allowed_hosts" list (default dict .Values.config)) | uniq | toYaml }}
{{- end }}

{{- define "dub5.config.redis" -}}
timeout: {{ .Values.redis.timeout }}
{{- if eq .Values.redis.mode "bundled" }}
url: redis://{{ include "dub5.redis.fullname" . }}:6379/0
password: {env: DUB5_REDIS_PASSWORD}
{{- else }}
{{- with .Values.redis.external }}
url: {{ .url | quote }}
{{- with .username }}
username: {{ . | quote }}
{{- end }}
{{- if .existingSecret }}
password: {env: DUB5_REDIS_PASSWORD}
{{- end }}
{{- if .caSecret }}
ca_file: /etc/dub5/redis-ca/ca.crt
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* The Secret that the backend's Redis password is in, as {name, key}; empty where there is none. */}}
{{- define "dub5.redis.password" -}}
{{- if eq .Values.redis.mode "bundled" }}
{{- with .Values.redis.bundled }}
name: {{ default (include "dub5.redis.fullname" $) .existingSecret | quote }}
key: {{ ternary .existingSecretKey "password" (ne .existingSecret "") | quote }}
{{- end }}
{{- else if and (eq .Values.redis.mode "external") .Values.redis.external.existingSecret }}
name: {{ quote .Values.redis.external.existingSecret }}
key: {{ quote .Values.redis.external.existingSecretKey }}
{{- end }}
{{- end }}

{{/* Whole seconds, rounded up, of a duration as the program writes it: `300ms`, `10s`, `5m`, or a number of seconds. */}}
{{- define "dub5.seconds" -}}
{{- if kindIs "string" . }}
{{- $unit := regexFind "[a-z]+$" . }}
{{- $factor := get (dict "ms" 0.001 "s" 1.0 "m" 60.0 "h" 3600.0 "d" 86400.0) $unit }}
{{- mulf (trimSuffix $unit . | float64) $factor | ceil | int64 }}
{{- else }}
{{- ceil . | int64 }}
{{- end }}
{{- end }}

{{/* MiB of an amount of memory as Redis or Kubernetes writes it, `256mb` or `384Mi`, or of a number of bytes. */}}
{{- define "dub5.mebibytes" -}}
{{- $written := include "dub5.text" . }}
{{- $unit := regexFind "[A-Za-z]+$" $written }}
{{- $mega := divf 1e6 1048576 }}
{{- $binary := dict "mb" 1 "gb" 1024 "Ki" (divf 1 1024) "Mi" 1 "Gi" 1024 "Ti" 1048576 }}
{{- $factors := merge $binary (dict "k" (divf $mega 1e3) "M" $mega "G" (mulf $mega 1e3) "T" (mulf $mega 1e6)) }}
{{- mulf (trimSuffix $unit $written | float64) (get $factors $unit | default (divf 1 1048576)) }}
{{- end }}

{{/* From the decision to end a pod to the end of its last answer, and five seconds to close. An answer begins when a place
is free, a stream perhaps at its first heartbeat; one that is asked for whole takes as long as its provider may. */}}
{{- define "dub5.gracePeriod" -}}
{{- $config := default dict .Values.config }}
{{- $linger := dig "drain" "linger" "10s" $config }}
{{- $queue := dig "admission" "queue_timeout" "10s" $config }}
{{- $answer := dig "server" "max_stream" "10m" $config | include "dub5.seconds" | int64 }}
{{- $heartbeat := dig "server" "heartbeat" "30s" $config }}
{{- range $config.providers }}
{{- if ne .kind "simulated" }}
{{- $answer = dig "timeouts" "total" "10m" . | include "dub5.seconds" | max $answer }}
{{- end }}
{{- end }}
{{- $begin := max (include "dub5.seconds" $queue) (include "dub5.seconds" $heartbeat) }}
{{- $sum := add (include "dub5.seconds" $linger) $begin $answer }}
{{- add $sum .Values.preStopSeconds 5 }}
{{- end }}

{{- define "dub5.capacity" -}}
{{- dig "admission" "max_inflight" 200 (default dict .Values.config) | int64 }}
{{- end }}

{{/* Demand per replica to aim for, in requests; at least 1. */}}
{{- define "dub5.target" -}}
{{- max 1 (div (mul (include "dub5.capacity" .) .Values.autoscaling.targetPercentage) 100) }}
{{- end }}
