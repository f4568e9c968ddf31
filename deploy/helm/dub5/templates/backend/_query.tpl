{{/* What the names of the backend's pods match, as PromQL writes it; never those of another release or component. */}}
{{- define "dub5.pods.pattern" -}}
{{ include "dub5.fullname" . }}-[a-z0-9]+-[a-z0-9]+
{{- end }}

{{/*
The demand of all replicas, for KEDA. `last_over_time`: a missed scrape of a busy pod does not make it look idle. `and … up`:
pods that are gone do not count, since their `up` is gone at once. A pod that is there, has told its demand before and has
not for a minute counts as one at its target, as the HPA itself would count it. Nothing at all is no figure, not zero.
*/}}
{{- define "dub5.keda.query" -}}
{{- $demand := printf "dub5_demand_requests{namespace=\"%s\",pod=~\"%s\"}" .Release.Namespace (include "dub5.pods.pattern" .) }}
{{- $there := "and on (namespace, pod) up" }}
{{- $recent := printf "last_over_time(%s[1m])" $demand }}
{{- $lost := printf "count((last_over_time(%s[15m]) %s) unless on (namespace, pod) %s)" $demand $there $recent }}
{{- printf "sum(%s %s) + %s * (%s or vector(0))" $recent $there (include "dub5.target" .) $lost }}
{{- end }}
