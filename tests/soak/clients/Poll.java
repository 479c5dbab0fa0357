import com.fasterxml.jackson.databind.ObjectMapper;
import java.util.Arrays;
import java.util.Map;
import org.openapitools.client.ApiClient;
import org.openapitools.client.ApiException;
import org.openapitools.client.api.AsyncJobsApi;
import org.openapitools.client.model.BifrostError;

/** Polls with the client that openapi-generator makes for Java: URL TOKEN JOB…; the job "waits" is waited for. */
public class Poll {
  public static void main(String[] arguments) throws Exception {
    ApiClient client = new ApiClient();
    client.updateBaseUri(arguments[0]);
    client.setRequestInterceptor(request -> request.header("Authorization", "Bearer " + arguments[1]));
    AsyncJobsApi api = new AsyncJobsApi(client);
    ObjectMapper json = ApiClient.createDefaultObjectMapper();
    for (String job : Arrays.copyOfRange(arguments, 2, arguments.length)) {
      Object[] row = {job, null, null, null, null};
      BifrostError error;
      try {
        var answer = api.getAsyncTranscriptionJobWithHttpInfo(job, null, job.equals("waits") ? "wait=30" : null, null);
        row[1] = answer.getStatusCode();
        row[2] = answer.getData().getStatus().getValue();
        Object result = answer.getData().getResult();
        row[3] = result instanceof Map ? ((Map<?, ?>) result).get("text") : null;
        error = answer.getData().getError();
      } catch (ApiException refused) {
        row[1] = refused.getCode();
        error = json.readValue(refused.getResponseBody(), BifrostError.class);
      }
      row[4] = error == null ? null : error.getError().getMessage();
      System.out.println(json.writeValueAsString(row));
    }
  }
}
