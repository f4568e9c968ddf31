{{- define "dub5.operator.pod" -}}
{{ include "dub5.pod" . }}
serviceAccountName: {{ include "dub5.operator.fullname" . }}
{{- with include "dub5.pod.placement" . }}
{{ . }}
{{- end }}
containers:
  - name: operator
    image: {{ include "dub5.image" . | quote }}
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    args: [operator, --config, /etc/dub5/config/dub5.yaml, --namespace, {{ .Release.Namespace | quote }}, --host, {{ .Values.listenAddress | quote }}]
    ports:
      - {name: health, containerPort: 8080}
      - {name: metrics, containerPort: 9001}
    {{- with include "dub5.backend.env" . }}
    env: {{ . | nindent 6 }}
    {{- end }}
    startupProbe:
      httpGet: {path: /healthz, port: health}
      periodSeconds: 2
      failureThreshold: 60
      timeoutSeconds: 2
    livenessProbe:
      httpGet: {path: /healthz, port: health}
      periodSeconds: 30
      failureThreshold: 6
      timeoutSeconds: 10
    resources: {{ toYaml .Values.operator.resources | nindent 6 }}
    securityContext: {{ include "dub5.container.security" . | nindent 6 }}
    volumeMounts:
      - {name: config, mountPath: /etc/dub5/config, readOnly: true}
      # The token has the rights of templates/operator/role.yaml only.
      - {name: token, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
      {{- if include "dub5.backend.ca" . }}
      - {name: redis-ca, mountPath: /etc/dub5/redis-ca, readOnly: true}
      {{- end }}
volumes:
  - name: config
    configMap: {name: {{ include "dub5.fullname" . }}}
  {{- include "dub5.pod.token" . | nindent 2 }}
  {{- with include "dub5.backend.ca" . }}
  - name: redis-ca
    secret: {{ . | nindent 6 }}
  {{- end }}
{{- end }}
