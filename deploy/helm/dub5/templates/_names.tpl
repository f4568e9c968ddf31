{{/* Names and labels. 40 characters leave room for what names are made longer by: `-operations`, hashes of pods. */}}
{{- define "dub5.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- $whole := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) }}
{{- default $whole .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "dub5.redis.fullname" -}}
{{ include "dub5.fullname" . }}-redis
{{- end }}

{{- define "dub5.operations.fullname" -}}
{{ include "dub5.fullname" . }}-operations
{{- end }}

{{- define "dub5.keda.hpa" -}}
keda-hpa-{{ include "dub5.fullname" . }}
{{- end }}

{{/* What selects pods; never changes, since Kubernetes forbids it. Takes (dict "root" . "component" NAME). */}}
{{- define "dub5.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride | trunc 63 | trimSuffix "-" | quote }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end }}

{{/* Takes the same. */}}
{{- define "dub5.labels" -}}
{{- $own := dict
  "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63)
  "app.kubernetes.io/part-of" "dub5"
  "app.kubernetes.io/version" .root.Chart.AppVersion
  "app.kubernetes.io/managed-by" .root.Release.Service }}
{{- merge (include "dub5.selector" . | fromYaml) $own (default dict .root.Values.commonLabels) | toYaml }}
{{- end }}

{{/* Labels of pods: nothing that a new chart or program changes, or every upgrade would restart all of them. */}}
{{- define "dub5.podLabels" -}}
{{- merge (include "dub5.selector" . | fromYaml) (dict "app.kubernetes.io/part-of" "dub5") (default dict .root.Values.commonLabels) | toYaml }}
{{- end }}

{{- define "dub5.serviceAccountName" -}}
{{- default (ternary (include "dub5.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name }}
{{- end }}

{{/* repository:tag, or repository@digest. Takes an image of the values with `tag` filled in. */}}
{{- define "dub5.imageName" -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag }}{{ end }}
{{- end }}

{{- define "dub5.image" -}}
{{- include "dub5.imageName" (merge (dict "tag" (default .Chart.AppVersion .Values.image.tag)) .Values.image) }}
{{- end }}

{{- define "dub5.operator.fullname" -}}
{{ include "dub5.fullname" . }}-operator
{{- end }}
