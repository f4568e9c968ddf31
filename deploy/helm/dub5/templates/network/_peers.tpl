{{/* Pods of this release by component, as a NetworkPolicy peer. Takes what `dub5.selector` takes. */}}
{{- define "dub5.peer" -}}
podSelector:
  matchLabels: {{ include "dub5.selector" . | nindent 4 }}
{{- end }}

{{/* The egress rule without which nobody finds anybody by name. */}}
{{- define "dub5.egress.dns" -}}
- to: {{ toYaml .Values.networkPolicy.dns | nindent 4 }}
  ports:
    - {protocol: UDP, port: 53}
    - {protocol: TCP, port: 53}
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
