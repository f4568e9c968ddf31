{{- define "dub5.advisor.fullname" -}}
{{ include "dub5.fullname" . }}-advisor
{{- end }}

{{/* The ConfigMap that the advice is left in. */}}
{{- define "dub5.advice.fullname" -}}
{{ include "dub5.fullname" . }}-advice
{{- end }}

{{- define "dub5.advisor.prometheus" -}}
{{- default .Values.autoscaling.keda.serverAddress .Values.advisor.prometheus }}
{{- end }}

{{/* The values that decide how this release scales, as `dub5 autoscale` reads them; of models only whether there are several. */}}
{{- define "dub5.advisor.values" -}}
{{- $given := default dict .Values.config }}
{{- $config := dict "admission" (dig "admission" dict $given) "drain" (dig "drain" dict $given) }}
{{- with dig "server" "max_stream" "" $given }}
{{- $_ := set $config "server" (dict "max_stream" .) }}
{{- end }}
{{- $models := keys (default dict $given.models) }}
{{- if or (gt (len $models) 1) (contains "*" (join "" $models)) }}
{{- $any := dict "routes" (list "demo/simulated") }}
{{- $_ := set $config "models" (dict "one" $any "another" $any) }}
{{- end }}
{{- pick .Values "replicas" "preStopSeconds" "autoscaling" | merge (dict "config" $config) | toYaml }}
{{- end }}

{{- define "dub5.advisor.args" -}}
{{- $given := .Values.advisor }}
{{- $selector := printf "namespace=\"%s\",pod=~\"%s\"" .Release.Namespace (include "dub5.pods.pattern" .) }}
- autoscale
- recommend
- {{ printf "--prometheus=%s" (include "dub5.advisor.prometheus" .) | quote }}
- {{ printf "--selector=%s" (default $selector $given.selector) | quote }}
- --last={{ $given.last }}
- --values=/etc/dub5/values/values.yaml
- --refused={{ printf "%.9f" (float64 $given.objective.refused) }}
- --wait={{ $given.objective.wait }}
- --seeds={{ int64 $given.seeds }}
- --jobs={{ int64 $given.jobs }}
- --hpa={{ include "dub5.fullname" . }}
- --configmap={{ include "dub5.advice.fullname" . }}
- --namespace={{ .Release.Namespace }}
{{- if $given.existingSecret }}
- --token-file=/etc/dub5/prometheus/token
{{- end }}
{{- if not $given.failOnMiss }}
- --exit-zero
{{- end }}
{{- if $given.resultsClaim }}
- --write-record=/results/$(POD_NAME).record
- --markdown=/results/$(POD_NAME).md
{{- end }}
{{- with $given.args }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/*
Spec of a Job, of `root`, which writes its advice while the ConfigMap is still for the same (`of`). Exit code 2 is a wrong
argument, 3 a missed objective: trying again would change neither.
*/}}
{{- define "dub5.advisor.job" -}}
{{- $of := .of }}
{{- with .root }}
{{- $given := .Values.advisor }}
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
      onExitCodes: {containerName: advisor, operator: In, values: [2, 3]}
template:
  metadata:
    labels: {{ include "dub5.podLabels" (dict "root" . "component" "advisor") | nindent 6 }}
  spec:
    restartPolicy: Never
    serviceAccountName: {{ include "dub5.advisor.fullname" . }}
    {{- include "dub5.pod" . | nindent 4 }}
    {{- with include "dub5.pod.placement" . }}
    {{- . | nindent 4 }}
    {{- end }}
    containers:
      - name: advisor
        image: {{ include "dub5.image" . | quote }}
        imagePullPolicy: {{ .Values.image.pullPolicy }}
        args: {{ append (include "dub5.advisor.args" . | fromYamlArray) (printf "--of=%s" $of) | toYaml | nindent 10 }}
        {{- if $given.resultsClaim }}
        env:
          - name: POD_NAME
            valueFrom: {fieldRef: {fieldPath: metadata.name}}
        {{- end }}
        resources: {{ toYaml $given.resources | nindent 10 }}
        securityContext: {{ include "dub5.container.security" . | nindent 10 }}
        volumeMounts:
          - {name: values, mountPath: /etc/dub5/values, readOnly: true}
          - {name: token, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
          {{- if $given.existingSecret }}
          - {name: prometheus, mountPath: /etc/dub5/prometheus, readOnly: true}
          {{- end }}
          {{- if $given.resultsClaim }}
          - {name: results, mountPath: /results}
          - {name: tmp, mountPath: /tmp}
          {{- end }}
    volumes:
      - name: values
        configMap: {name: {{ include "dub5.advisor.fullname" . }}}
      {{- include "dub5.pod.token" . | nindent 6 }}
      {{- with $given.existingSecret }}
      - name: prometheus
        secret: {secretName: {{ quote . }}, items: [{key: {{ quote $given.existingSecretKey }}, path: token}]}
      {{- end }}
      {{- with $given.resultsClaim }}
      - name: results
        persistentVolumeClaim: {claimName: {{ quote . }}}
      - {name: tmp, emptyDir: {}}
      {{- end }}
{{- end }}
{{- end }}

{{/* What the advice is for: these values, asked in this way. */}}
{{- define "dub5.advisor.of" -}}
{{- list (include "dub5.advisor.job" (dict "root" . "of" "")) (include "dub5.advisor.values" .) | toJson | sha256sum | trunc 8 }}
{{- end }}

{{/* A Job cannot be changed: another name at each upgrade, and where Helm knows of none, for each content. */}}
{{- define "dub5.advisor.jobName" -}}
{{- include "dub5.advisor.fullname" . }}-{{ printf "%s %d" (include "dub5.advisor.of" .) .Release.Revision | sha256sum | trunc 8 }}
{{- end }}
