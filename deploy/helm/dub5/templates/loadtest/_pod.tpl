{{- define "dub5.loadtest.fullname" -}}
{{ include "dub5.fullname" . }}-loadtest
{{- end }}

{{/* The Secret with a key that may chat, as {name, key}; empty where nobody needs one or none is known. */}}
{{- define "dub5.loadtest.key" -}}
{{- if .Values.loadtest.keySecret }}
name: {{ quote .Values.loadtest.keySecret }}
key: {{ quote .Values.loadtest.keySecretKey }}
{{- else }}
{{- include "dub5.test.key" . }}
{{- end }}
{{- end }}

{{/* Where a script is in the ConfigMap, whose keys have no slashes. Takes the path below files/k6. */}}
{{- define "dub5.loadtest.scripts" -}}
name: scripts
configMap:
  name: {{ include "dub5.loadtest.fullname" . }}
  items:
    {{- range $path, $_ := .Files.Glob "files/k6/**" }}
    {{- $script := trimPrefix "files/k6/" $path }}
    - {key: {{ $script | replace "/" "." }}, path: {{ $script }}}
    {{- end }}
{{- end }}

{{/* Environment of k6. Takes (dict "root" . "settings" MAP). */}}
{{- define "dub5.loadtest.env" -}}
{{- $given := .root.Values.loadtest }}
{{- $own := printf "http://%s:%d" (include "dub5.fullname" .root) (int64 .root.Values.service.port) }}
- {name: DUB5_URL, value: {{ default $own $given.url | quote }}}
{{- with include "dub5.loadtest.key" .root | fromYaml }}
- name: DUB5_KEY
  valueFrom: {secretKeyRef: {name: {{ quote .name }}, key: {{ quote .key }}}}
{{- end }}
- {name: HOME, value: /tmp}
- {name: NO_COLOR, value: "true"}
{{- with $given.remoteWrite }}
- {name: K6_PROMETHEUS_RW_SERVER_URL, value: {{ quote . }}}
- {name: K6_PROMETHEUS_RW_TREND_STATS, value: "p(50),p(95),p(99)"}
{{- end }}
{{- if $given.resultsClaim }}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- {name: SUMMARY_FILE, value: /results/$(POD_NAME).json}
{{- end }}
{{- range $name, $value := merge (deepCopy (default dict .settings)) (dict "STARTUP_TIMEOUT" "3m") }}
- {name: {{ $name }}, value: {{ include "dub5.text" $value | quote }}}
{{- end }}
{{- end }}

{{- define "dub5.loadtest.mounts" -}}
- {name: scripts, mountPath: /scripts, readOnly: true}
- {name: tmp, mountPath: /tmp}
{{- if .Values.loadtest.resultsClaim }}
- {name: results, mountPath: /results}
{{- end }}
{{- end }}

{{- define "dub5.loadtest.volumes" -}}
- {{ include "dub5.loadtest.scripts" . | nindent 2 | trim }}
- {name: tmp, emptyDir: {}}
{{- with .Values.loadtest.resultsClaim }}
- name: results
  persistentVolumeClaim: {claimName: {{ quote . }}}
{{- end }}
{{- end }}

{{/* The container. Takes (dict "root" . "scenario" NAME "settings" MAP), and "smoke" true for `helm test`. */}}
{{- define "dub5.loadtest.container" -}}
{{- $given := .root.Values.loadtest }}
name: k6
image: {{ include "dub5.imageName" $given.image | quote }}
imagePullPolicy: {{ $given.image.pullPolicy }}
args:
  - run
  {{- if not $given.progress }}
  - --quiet
  {{- end }}
  - --no-usage-report
  - --log-format=json
  - --address=  # its REST API is for nobody
  {{- if and $given.remoteWrite (not .smoke) }}
  - --out=experimental-prometheus-rw
  {{- end }}
  - /scripts/scenarios/{{ .scenario }}.js
env: {{ include "dub5.loadtest.env" . | nindent 2 }}
resources: {{ toYaml $given.resources | nindent 2 }}
securityContext: {{ include "dub5.container.security" .root | nindent 2 }}
volumeMounts: {{ include "dub5.loadtest.mounts" .root | nindent 2 }}
{{- end }}

{{/* Spec of a Job. k6 exits with 99 where a gate was missed: that is the result, and trying again would hide it. */}}
{{- define "dub5.loadtest.job" -}}
{{- $given := .Values.loadtest }}
backoffLimit: {{ $given.backoffLimit }}
activeDeadlineSeconds: {{ $given.activeDeadlineSeconds }}
{{- if not (kindIs "invalid" $given.ttlSecondsAfterFinished) }}
ttlSecondsAfterFinished: {{ $given.ttlSecondsAfterFinished }}
{{- end }}
podFailurePolicy:
  rules:
    - action: Ignore  # taken away, by a drain for example: another pod begins anew
      onPodConditions:
        - {type: DisruptionTarget, status: "True"}
    - action: FailJob
      onExitCodes: {containerName: k6, operator: NotIn, values: [0]}
template:
  metadata:
    labels: {{ include "dub5.podLabels" (dict "root" . "component" "loadtest") | nindent 6 }}
  spec:
    restartPolicy: Never
    serviceAccountName: {{ include "dub5.loadtest.fullname" . }}
    {{- include "dub5.pod" . | nindent 4 }}
    {{- include "dub5.loadtest.placement" . | nindent 4 }}
    containers:
      - {{ include "dub5.loadtest.container" (dict "root" . "scenario" $given.scenario "settings" $given.settings) | nindent 8 | trim }}
    volumes: {{ include "dub5.loadtest.volumes" . | nindent 6 }}
{{- end }}

{{/* A Job cannot be changed: another name for each content, and the same name where nothing has changed. */}}
{{- define "dub5.loadtest.jobName" -}}
{{ include "dub5.loadtest.fullname" . }}-{{ printf "%s %s" (include "dub5.loadtest.job" .) .Values.loadtest.run | sha256sum | trunc 8 }}
{{- end }}

{{- define "dub5.loadtest.placement" -}}
{{- $nodes := merge (deepCopy (default dict .Values.loadtest.nodeSelector)) (default dict .Values.nodeSelector) }}
{{- if $nodes }}
nodeSelector: {{ toYaml $nodes | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}
