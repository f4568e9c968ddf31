{{- define "dub5.backend.pod" -}}
{{ include "dub5.pod" . }}
serviceAccountName: {{ include "dub5.serviceAccountName" . | quote }}
# preStop + drain.linger + the longer of admission.queue_timeout and server.heartbeat + the longest of server.max_stream and
# timeouts.total of providers + 5: nobody is cut off.
terminationGracePeriodSeconds: {{ include "dub5.gracePeriod" . }}
{{- with include "dub5.pod.placement" . }}
{{ . }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{ toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints: {{ include "dub5.backend.spread" . | nindent 2 }}
containers:
  - name: backend
    image: {{ include "dub5.image" . | quote }}
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    args: [serve, --config, /etc/dub5/config/dub5.yaml]
    ports:
      - {name: http, containerPort: 8000}
      - {name: operations, containerPort: 9000}
    {{- with include "dub5.backend.env" . }}
    env: {{ . | nindent 6 }}
    {{- end }}
    # Up to a minute to start: on a busy node Python takes its time.
    startupProbe:
      httpGet: {path: /readyz, port: operations}
      periodSeconds: 1
      failureThreshold: 60
      timeoutSeconds: 2
    readinessProbe:
      httpGet: {path: /readyz, port: operations}
      periodSeconds: 5
      failureThreshold: 3
      timeoutSeconds: 3
    # Slow is not dead: an overloaded event loop answers late, and a restart would cut its streams.
    livenessProbe:
      httpGet: {path: /livez, port: operations}
      periodSeconds: 10
      failureThreshold: 6
      timeoutSeconds: 10
    {{- with .Values.preStopSeconds }}
    lifecycle:
      preStop: {{ include "dub5.backend.sleep" $ }}
    {{- end }}
    resources: {{ toYaml .Values.resources | nindent 6 }}
    securityContext: {{ include "dub5.container.security" . | nindent 6 }}
    volumeMounts:
      - {name: config, mountPath: /etc/dub5/config, readOnly: true}
      {{- if not .Values.auth.anonymous }}
      - {name: keys, mountPath: /etc/dub5/keys, readOnly: true}
      {{- end }}
      {{- if include "dub5.backend.ca" . }}
      - {name: redis-ca, mountPath: /etc/dub5/redis-ca, readOnly: true}
      {{- end }}
      {{- with .Values.extraVolumeMounts }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
volumes:
  - name: config
    configMap: {name: {{ include "dub5.fullname" . }}}
  {{- if not .Values.auth.anonymous }}
  # A directory, not a subPath: a changed Secret appears in it, and the program reads it again.
  - name: keys
    secret: {{ include "dub5.backend.keys" . | nindent 6 }}
  {{- end }}
  {{- with include "dub5.backend.ca" . }}
  - name: redis-ca
    secret: {{ . | nindent 6 }}
  {{- end }}
  {{- with .Values.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "dub5.backend.env" -}}
{{- with include "dub5.redis.password" . | fromYaml }}
- name: DUB5_REDIS_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ quote .name }}, key: {{ quote .key }}}}
{{- end }}
{{- range $name, $value := .Values.env }}
- {name: {{ quote $name }}, value: {{ include "dub5.text" $value | quote }}}
{{- end }}
{{- range $name, $source := .Values.secretEnv }}
- name: {{ quote $name }}
  valueFrom: {secretKeyRef: {name: {{ quote $source.name }}, key: {{ quote $source.key }}}}
{{- end }}
{{- end }}

{{- define "dub5.backend.keys" -}}
{{- with .Values.auth }}
{{- if .existingSecret }}
secretName: {{ quote .existingSecret }}
items: [{key: {{ quote .existingSecretKey }}, path: keys.yaml}]
{{- else }}
secretName: {{ include "dub5.fullname" $ }}-keys
items: [{key: keys.yaml, path: keys.yaml}]
{{- end }}
{{- end }}
{{- end }}

{{- define "dub5.backend.ca" -}}
{{- if eq .Values.redis.mode "external" }}
{{- with .Values.redis.external.caSecret }}
secretName: {{ quote . }}
items: [{key: {{ quote $.Values.redis.external.caSecretKey }}, path: ca.crt}]
{{- end }}
{{- end }}
{{- end }}

{{/* Time for load balancers to learn that the pod leaves. */}}
{{- define "dub5.backend.sleep" -}}
{{- $seconds := int64 .Values.preStopSeconds }}
{{- if semverCompare "<1.30.0-0" (default .Capabilities.KubeVersion.Version .Values.kubeVersion) -}}
{exec: {command: [python3, -c, "import time; time.sleep({{ $seconds }})"]}}
{{- else -}}
{sleep: {seconds: {{ $seconds }}}}
{{- end }}
{{- end }}

{{- define "dub5.backend.spread" -}}
{{- if .Values.topologySpreadConstraints }}
{{- toYaml .Values.topologySpreadConstraints }}
{{- else }}
{{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
- maxSkew: 1
  topologyKey: {{ . }}
  whenUnsatisfiable: ScheduleAnyway
  matchLabelKeys: [pod-template-hash]
  labelSelector:
    matchLabels: {{ include "dub5.selector" (dict "root" $ "component" "backend") | nindent 6 }}
{{- end }}
{{- end }}
{{- end }}
