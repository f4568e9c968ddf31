{{/* Pods of this release by component, as a NetworkPolicy peer. Takes what `dub5.selector` takes. */}}
{{- define "dub5.peer" -}}
podSelector:
  matchLabels: {{ include "dub5.selector" . | nindent 4 }}
{{- end }}

{{/* The egress rule without which nobody finds anybody by name. It is about ports of pods, and OpenShift's name servers have 5353. */}}
{{- define "dub5.egress.dns" -}}
- to: {{ toYaml .Values.networkPolicy.dns | nindent 4 }}
  ports:
    - {protocol: UDP, port: 53}
    - {protocol: TCP, port: 53}
    - {protocol: UDP, port: 5353}
    - {protocol: TCP, port: 5353}
{{- end }}

{{/* To Redis: the bundled one, or the ports that the URL names, at any address. */}}
{{- define "dub5.egress.redis" -}}
{{- if eq .Values.redis.mode "bundled" }}
- to:
    - {{ include "dub5.peer" (dict "root" . "component" "redis") | nindent 6 | trim }}
  ports:
    - {protocol: TCP, port: 6379}
{{- else if .Values.networkPolicy.redis }}
{{- toYaml .Values.networkPolicy.redis }}
{{- else if eq .Values.redis.mode "external" }}
- ports:
    {{- range include "dub5.redis.ports" . | fromJsonArray }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
{{- end }}
{{- end }}

{{- define "dub5.redis.ports" -}}
{{- $scheme := .Values.redis.external.url | splitList "://" | first }}
{{- $hosts := .Values.redis.external.url | splitList "://" | last | splitList "/" | first | splitList "@" | last }}
{{- $sends := or (hasSuffix "sentinel" $scheme) (hasSuffix "cluster" $scheme) }}
{{- $usual := ternary "26379" "6379" (hasSuffix "sentinel" $scheme) }}
{{- $ports := ternary (list "6379") (list) $sends }}
{{- range splitList "," $hosts }}
{{- $ports = append $ports (default $usual (regexFind "[0-9]+$" (regexFind ":[0-9]+$" .))) }}
{{- end }}
{{- $numbers := list }}
{{- range uniq $ports }}{{ $numbers = append $numbers (int .) }}{{ end }}
{{- toJson $numbers }}
{{- end }}

{{/*
To the advisor's Prometheus: by the rules that are set, or at the port of its address, in the namespace that a name of the
cluster tells, else anywhere but at the link-local addresses, where clouds keep their metadata.
*/}}
{{- define "dub5.egress.prometheus" -}}
{{- if .Values.networkPolicy.prometheus }}
{{- toYaml .Values.networkPolicy.prometheus }}
{{- else }}
{{- with include "dub5.address" (dict "name" "" "url" (include "dub5.advisor.prometheus" .)) | fromJson }}
- ports:
    - {protocol: TCP, port: {{ int .port }}}
  to:
    {{- with include "dub5.namespaceOf" (dict "root" $ "host" .host) }}
    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: {{ quote . }}}}
    {{- else }}
    - ipBlock: {cidr: 0.0.0.0/0, except: [169.254.0.0/16]}
    - ipBlock: {cidr: "::/0", except: ["fe80::/10"]}
    {{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* The namespace of a Service, by its name as pods call it; empty for all other names and for addresses. */}}
{{- define "dub5.namespaceOf" -}}
{{- $parts := splitList "." .host }}
{{- if regexMatch "^[0-9.]+$|:" .host }}
{{- else if eq (len $parts) 1 }}
{{- .root.Release.Namespace }}
{{- else if or (eq (len $parts) 2) (eq (index $parts 2) "svc") }}
{{- index $parts 1 }}
{{- end }}
{{- end }}
