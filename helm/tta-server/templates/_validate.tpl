{{/* What a schema cannot say: keys that need each other. */}}
{{- define "tta.validate" -}}
{{- $v := .Values -}}
{{- include "tta.validateTexts" . }}
{{- $needs := dict "pvc" $v.models.pvc.claimName "hostPath" $v.models.hostPath.path "configMap" $v.models.configMap "inline" $v.models.inline "fetch" $v.models.fetch.url -}}
{{- $keys := dict "pvc" "models.pvc.claimName" "hostPath" "models.hostPath.path" "configMap" "models.configMap" "inline" "models.inline" "fetch" "models.fetch.url" -}}
{{- range $source, $value := $needs }}
{{- if and (eq $v.models.source $source) (empty $value) }}
{{- fail (printf "models.source is %s, which needs %s: set it" $source (get $keys $source)) }}
{{- end }}
{{- if and (ne $v.models.source $source) (not (empty $value)) }}
{{- fail (printf "%s is set, but models.source is %s: set models.source to %s, or leave %s out" (get $keys $source) $v.models.source $source (get $keys $source)) }}
{{- end }}
{{- end }}
{{- if and (hasPrefix "http://" $v.models.fetch.url) (not $v.models.fetch.sha256) }}
{{- fail "models.fetch.url is not encrypted, so its archive may have been changed on the way: set models.fetch.sha256, or take https://" }}
{{- end }}
{{- if and $v.auth.keys.secretName (not $v.auth.client.secretName) }}
{{- fail "auth.keys needs a key for each request, also of helm test and the ServiceMonitor: set auth.client.secretName, with one key" }}
{{- end }}
{{- if and (eq $v.autoscaling.kind "keda") (not $v.autoscaling.keda.prometheusAddress) }}
{{- fail "autoscaling.kind is keda, which needs autoscaling.keda.prometheusAddress, as http://prometheus-operated.monitoring:9090" }}
{{- end }}
{{- if gt (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas) }}
{{- fail (printf "autoscaling.minReplicas is %d, over autoscaling.maxReplicas %d" (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas)) }}
{{- end }}
{{- if and $v.ingress.enabled (not $v.ingress.hosts) }}
{{- fail "ingress.enabled needs ingress.hosts, as [tta.example.org]" }}
{{- end }}
{{- range $name := list "httpRoute" "grpcRoute" }}
{{- $route := get $v $name }}
{{- if and $route.enabled (not $route.parentRefs) }}
{{- fail (printf "%s.enabled needs %s.parentRefs, as [{name: GATEWAY, namespace: NAMESPACE}]" $name $name) }}
{{- end }}
{{- end }}
{{- if and (not $v.serviceAccount.create) $v.serviceAccount.annotations }}
{{- fail "serviceAccount.annotations are for a service account that the chart makes: set serviceAccount.create, or annotate your own" }}
{{- end }}
{{- range $v.env }}
{{- if hasPrefix "TTA_" .name }}
{{- fail (printf "env has %s: settings of the server belong into settings, which knows their names" .name) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Texts of a form; the schema has types and ranges, but its patterns would be no sentences. */}}
{{- define "tta.validateTexts" -}}
{{- $v := .Values -}}
{{- $name := list "^$|^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$" "a name in lower case, of a-z 0-9 . -" -}}
{{- $size := list "^[0-9]+([.][0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T)?$" "a size like 500Mi or 10Gi" -}}
{{- $path := list "^$|^/." "a whole path like /models" -}}
{{- $texts := list
  (list "image.repository" $v.image.repository "^[^:@ ]+(:[0-9]+/[^:@ ]+)?$" "an image's name; its version is image.tag or image.digest")
  (list "image.tag" $v.image.tag "^[A-Za-z0-9_.-]*$" "a tag like 0.1.0")
  (list "image.digest" $v.image.digest "^$|^sha256:[0-9a-f]{64}$" "sha256: and 64 hexadecimal digits")
  (concat (list "fullnameOverride" $v.fullnameOverride) $name)
  (concat (list "models.path" $v.models.path) $path)
  (concat (list "models.hostPath.path" $v.models.hostPath.path) $path)
  (concat (list "models.pvc.claimName" $v.models.pvc.claimName) $name)
  (list "models.pvc.subPath" $v.models.pvc.subPath "^$|^[^/]" "a path inside of the claim, which does not begin with /")
  (list "models.fetch.url" $v.models.fetch.url "^$|^(s3|gs|https?)://[^/ ]+" "s3://BUCKET/FOLDER, gs://BUCKET/FOLDER or https://HOST/ARCHIVE")
  (list "models.fetch.s3Endpoint" $v.models.fetch.s3Endpoint "^$|^https?://[^/ ]+$" "an address like http://minio.storage:9000")
  (list "models.fetch.sha256" $v.models.fetch.sha256 "^$|^[0-9a-fA-F]{64}$" "64 hexadecimal digits")
  (concat (list "models.fetch.envSecret" $v.models.fetch.envSecret) $name)
  (concat (list "models.fetch.sizeLimit" $v.models.fetch.sizeLimit) $size)
  (concat (list "tmpSizeLimit" $v.tmpSizeLimit) $size)
  (concat (list "auth.keys.secretName" $v.auth.keys.secretName) $name)
  (concat (list "auth.client.secretName" $v.auth.client.secretName) $name)
  (concat (list "tls.secretName" $v.tls.secretName) $name)
  (concat (list "serviceAccount.name" $v.serviceAccount.name) $name)
  (list "gpu.resource" $v.gpu.resource "^[a-z0-9.-]+/[A-Za-z0-9._-]+$" "the resource of a device plugin, like nvidia.com/gpu")
  (list "autoscaling.keda.prometheusAddress" $v.autoscaling.keda.prometheusAddress "^$|^https?://[^ ]+$" "an address like http://prometheus-operated.monitoring:9090")
  (list "autoscaling.keda.device" $v.autoscaling.keda.device "^[^\" ]+$" "the label of tta_slots: cpu, cuda:0, or a server's address")
  (list "podDisruptionBudget.maxUnavailable" (toString $v.podDisruptionBudget.maxUnavailable) "^[0-9]+%?$" "a number, or a share like 25%")
  (list "metrics.serviceMonitor.interval" $v.metrics.serviceMonitor.interval "^[0-9]+(ms|s|m)$" "a time like 15s")
-}}
{{- range $v.models.configMap }}
{{- $texts = append $texts (list "models.configMap: model" .model "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$" "a name in lower case, of a-z 0-9 -") }}
{{- end }}
{{- range $model, $_ := $v.models.inline }}
{{- $texts = append $texts (list "models.inline" $model "^[A-Za-z0-9][A-Za-z0-9._-]*$" "models by name, of letters, digits, . _ -") }}
{{- end }}
{{- range $kind, $amounts := $v.resources }}
{{- range $resource, $amount := $amounts }}
{{- $texts = append $texts (list (printf "resources.%s.%s" $kind $resource) (toString $amount) "^[0-9]+([.][0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T|m)?$" "an amount like 2, 500m or 2Gi") }}
{{- end }}
{{- end }}
{{- range $texts }}
{{- if not (regexMatch (index . 2) (index . 1)) }}
{{- fail (printf "%s takes %s, not %q" (index . 0) (index . 3) (index . 1)) }}
{{- end }}
{{- end }}
{{- end }}
