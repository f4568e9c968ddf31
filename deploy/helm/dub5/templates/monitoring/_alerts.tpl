{{/*
The rules of alerts/dub5.yaml for this release: its namespace, its Deployment, its most replicas, and where its runbooks are. Never by `tpl`:
what Prometheus fills in is written with the same braces.
*/}}
{{- define "dub5.alerts" -}}
{{- $namespace := printf "namespace=%q" .Release.Namespace }}
{{- $most := ternary .Values.replicas .Values.autoscaling.maxReplicas (eq .Values.autoscaling.mode "none") | int64 }}
{{- $rules := .Files.Get "alerts/dub5.yaml" | replace "namespace=~\".*\"" $namespace | replace "vector(10)" (printf "vector(%d)" $most) }}
{{- $name := include "dub5.fullname" . }}
{{- $rules = $rules | replace "deployment=\"dub5\"" (printf "deployment=%q" $name) | replace "pod=~\"dub5-" (printf "pod=~\"%s-" $name) | replace "?dub5\"" (printf "?%s\"" $name) }}
{{- with .Values.monitoring.alerts.runbooks }}
{{- $rules = $rules | replace "runbook_url: docs/runbooks/" (printf "runbook_url: %s/" (trimSuffix "/" .)) }}
{{- end }}
{{- $rules | fromYaml | toYaml }}
{{- end }}
