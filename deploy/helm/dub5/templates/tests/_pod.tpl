{{/* A pod that runs `dub5 smoke …` in the product's own image. Takes (dict "root" . "name" NAME "args" LIST). */}}
{{- define "dub5.test.metadata" -}}
name: {{ include "dub5.fullname" .root }}-test-{{ .name }}
namespace: {{ .root.Release.Namespace | quote }}
labels: {{ include "dub5.labels" (dict "root" .root "component" "test") | nindent 2 }}
annotations:
  helm.sh/hook: test
  helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
  helm.sh/hook-output-log-policy: hook-failed  # Helm 4 shows what a failed test said
{{- end }}

{{- define "dub5.test.container" -}}
name: smoke
image: {{ include "dub5.image" .root | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
args: {{ toJson (concat (list "smoke" .name "--timeout" .root.Values.tests.timeout) .args) }}
resources:
  requests: {cpu: 50m, memory: 64Mi}
  limits: {memory: 128Mi}
securityContext: {{ include "dub5.container.security" .root | nindent 2 }}
{{- end }}

{{/* The Secret with a key that may chat, as {name, key}; empty where nobody needs one or none is known. */}}
{{- define "dub5.test.key" -}}
{{- if .Values.tests.keySecret }}
name: {{ quote .Values.tests.keySecret }}
key: {{ quote .Values.tests.keySecretKey }}
{{- else if not (or .Values.auth.anonymous .Values.auth.existingSecret) }}
name: {{ include "dub5.fullname" . }}-keys
key: chat
{{- end }}
{{- end }}
