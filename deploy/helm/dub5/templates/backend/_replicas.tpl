{{/*
How many replicas the Deployment names, as {count}; empty where it names none, because an autoscaler decides.

A number that Helm has once written must not simply go: Kubernetes would fall back to one replica. So after mode `none`
the Deployment keeps naming a number, the present one, and an annotation remembers that.
*/}}
{{- define "dub5.replicas" -}}
{{- $deployment := lookup "apps/v1" "Deployment" .Release.Namespace (include "dub5.fullname" .) }}
{{- $present := dig "spec" "replicas" 0 $deployment | int64 }}
{{- $wanted := int64 .Values.replicas }}
{{- if ne .Values.autoscaling.mode "none" }}
{{- if dig "metadata" "annotations" "dub5/replicas-in-manifest" "" $deployment }}
count: {{ $present }}
{{- end }}
{{- else if and (lt $wanted $present) (include "dub5.autoscaled" .) }}
{{- fail (printf "replicas: %d is less than the %d that are running; leave autoscaling with `replicas: %d`, and lower it afterwards" $wanted $present $present) }}
{{- else }}
count: {{ $wanted }}
{{- end }}
{{- end }}

{{/* Not empty while an autoscaler of this release is in the cluster. */}}
{{- define "dub5.autoscaled" -}}
{{- range list (include "dub5.fullname" .) (include "dub5.keda.hpa" .) }}
{{- if lookup "autoscaling/v2" "HorizontalPodAutoscaler" $.Release.Namespace . }}yes{{ end }}
{{- end }}
{{- end }}
